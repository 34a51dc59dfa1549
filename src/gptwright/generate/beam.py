"""Beam search: the likeliest continuations that are found by keeping the best few beginnings at every step.

The rules are those of Hugging Face's ``generate(num_beams=..., do_sample=False)``, to the id. Shapes: r beams that go
on, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.generate.choose import check_finite
from gptwright.model.decode import check_room
from gptwright.model.decoder import Decoder
from gptwright.model.gpt import GPT


@dataclass(frozen=True)
class Beam:
    """One continuation that was found."""

    ids: tuple[int, ...]
    """New token ids, without the one that ended the text."""
    score: float
    """Sum of the log-probabilities of its tokens (the end's among them) over their number ** length_penalty."""
    finish_reason: str
    """``stop`` for an end of text, ``length`` where it was cut."""


class _Open(NamedTuple):
    """A beginning that goes on: its tokens and the sum of their log-probabilities."""

    ids: tuple[int, ...]
    total: float
    parent: int
    """Row of the decoder that holds all of it but the last token."""


def check_beams(beams: int, n: int, vocab_size: int) -> None:
    """Refuse numbers of beams that have no meaning.

    Raises:
        GptwrightError: the message says which.
    """
    if beams < 1:
        raise GptwrightError(f"beams is {beams} and must be at least 1; leave it out to draw tokens")
    if beams > vocab_size:
        raise GptwrightError(f"beams is {beams} and the vocabulary has {vocab_size} tokens; use at most so many beams")
    if not 1 <= n <= beams:
        raise GptwrightError(f"n is {n} and beams {beams}: n of the beams are given back; use 1 to {beams}")


def beam_search(
    model: GPT,
    ids: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    end_ids: Sequence[int] = (),
    n: int = 1,
) -> list[Beam]:
    """Return the ``n`` best continuations of the prompt ``ids``, best first.

    Args:
        model: the model.
        ids: token ids of the prompt, at least one.
        beams: beginnings that are kept at every step.
        max_new_tokens: tokens to add at most.
        length_penalty: power of the length that a sum of log-probabilities is divided by; above 0 favours long ones.
        end_ids: tokens that end a text.
        n: how many to return, at most ``beams``.

    Raises:
        GptwrightError: a number has no meaning, or prompt and new tokens do not fit.
    """
    check_beams(beams, n, model.config.require_vocab_size())
    check_room(model, len(ids), max_new_tokens, "refuse")
    if max_new_tokens == 0:
        return [Beam((), 0.0, "length")] * n
    decoder = Decoder(model, rows=beams, length=len(ids) + max_new_tokens)
    logits, beginnings = decoder.extend(0, ids)[None], [_Open((), 0.0, 0)]
    found = _Found(beams, max_new_tokens, length_penalty, frozenset(end_ids))
    while beginnings := found.sift(_extensions(logits, beginnings, found.looked_at)):
        rows = _rows([beginning.parent for beginning in beginnings])
        for row, beginning in zip(rows, beginnings, strict=True):
            if row != beginning.parent:
                decoder.copy(beginning.parent, row, decoder.lengths[beginning.parent])
        beginnings = [each._replace(parent=row) for row, each in sorted(zip(rows, beginnings, strict=True))]
        logits = decoder.step([beginning.ids[-1] for beginning in beginnings])
    return found.beams[:n]


def _extensions(logits: Tensor, beginnings: list[_Open], count: int) -> list[_Open]:
    """Return the ``count`` best of all beginnings with one more token, best first; ``logits`` (r, V) are in order."""
    totals = torch.tensor([beginning.total for beginning in beginnings], device=logits.device)
    scores = logits.log_softmax(-1) + totals[:, None]
    best = scores.flatten().topk(min(count, scores.numel()))
    check_finite(float(best.values[0]))
    extensions = []
    for total, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        row, token = divmod(place, logits.shape[-1])
        extensions.append(_Open((*beginnings[row].ids, token), total, row))
    return extensions


class _Found:
    """The best continuations that have ended, and whether one that goes on may still be better."""

    def __init__(self, size: int, max_new_tokens: int, length_penalty: float, end_ids: frozenset[int]) -> None:
        self.size, self.max_new_tokens = size, max_new_tokens
        self.length_penalty, self.end_ids = length_penalty, end_ids
        self.looked_at = max(2, 1 + len(end_ids)) * size
        """Extensions to look at, so that enough go on even when all ends come first."""
        self.beams: list[Beam] = []

    def sift(self, extensions: list[_Open]) -> list[_Open]:
        """Take those that end, and return those to go on with, best first: none when nothing better can come."""
        length = len(extensions[0].ids)
        full = length == self.max_new_tokens
        for rank, extension in enumerate(extensions):
            ended = extension.ids[-1] in self.end_ids
            if (ended or full) and rank < self.size:  # the others are here only to go on
                self._take(extension, ended)
        if full:
            return []
        open = [extension for extension in extensions if extension.ids[-1] not in self.end_ids][: self.size]
        return open if open and self._may_improve(open[0].total, length) else []

    def _take(self, extension: _Open, ended: bool) -> None:
        score = extension.total / len(extension.ids) ** self.length_penalty
        ids = extension.ids[:-1] if ended else extension.ids
        self.beams.append(Beam(ids, score, "stop" if ended else "length"))
        self.beams = sorted(self.beams, key=lambda beam: -beam.score)[: self.size]

    def _may_improve(self, total: float, length: int) -> bool:
        """Compare the best that goes on, at its length now, with the worst found (a rule of thumb, not a bound)."""
        return len(self.beams) < self.size or total / length**self.length_penalty > self.beams[-1].score


def _rows(parents: list[int]) -> list[int]:
    """Return a row of the decoder for each child: its parent's for the first, one that is free for its siblings."""
    rows: list[int | None] = []
    for parent in parents:
        rows.append(None if parent in rows or parent >= len(parents) else parent)
    free = (row for row in range(len(parents)) if row not in rows)
    return [next(free) if row is None else row for row in list(rows)]
