"""Decoding a batch over token ids: prefill once, then one token at a time on decode states.

Shapes: B batch, T prompt, V vocabulary.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.model.decoder import Decoder
from gptwright.model.evaluating import evaluating
from gptwright.ops.sampling import sample

if TYPE_CHECKING:
    from gptwright.model.gpt import GPT

Overflow = Literal["slide", "refuse"]
CHUNK = 512
"""Tokens of a prompt that are read at a time."""
ROOM = 1024
"""Tokens that rows are made for at first, at most, unless a prompt is longer."""


def check_sampling(max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Refuse sampling settings that have no meaning."""
    if max_new_tokens < 0:
        raise GptwrightError(f"max_new_tokens is {max_new_tokens} and cannot be negative; use 0 or more")
    if not temperature >= 0 or temperature == float("inf"):
        raise GptwrightError(f"temperature is {temperature} and must be 0 or more; 0 takes the likeliest token")
    if top_k is not None and top_k < 1:
        raise GptwrightError(f"top_k is {top_k} and must be at least 1; leave it out to allow every token")
    if top_p is not None and not 0 < top_p <= 1:
        raise GptwrightError(f"top_p is {top_p} and must be above 0 and at most 1; leave it out to allow every token")


def check_room(model: "GPT", prompt: int, max_new_tokens: int, overflow: Overflow) -> None:
    """Refuse a prompt that has no token or no room, and new tokens without room unless the context may slide."""
    limit = model.config.position.limit(model.config.context(0))
    if prompt < 1:
        raise GptwrightError("the prompt has no token; give at least one")
    if limit is None:
        return
    kind = f"{model.config.position.type} positions end at max_seq_len {limit}"
    if prompt > limit:
        raise GptwrightError(f"the prompt has {prompt} tokens, but {kind}; shorten the prompt")
    if overflow == "refuse" and prompt + max_new_tokens > limit:
        raise GptwrightError(
            f"the prompt has {prompt} tokens and {max_new_tokens} new ones were asked for, but {kind}; shorten the "
            f"prompt, ask for at most {limit - prompt} new tokens, or let the context slide"
        )


@torch.no_grad()
def stream_ids(
    model: "GPT",
    ids: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    padding_mask: Tensor | None = None,
    overflow: Overflow = "slide",
) -> Iterator[Tensor]:
    """Yield the next token (B,) of every row, ``max_new_tokens`` times, after ``ids`` (B, T) padded on the left.

    Where positions end, ``slide`` goes on from the latest half of the context, read anew.
    """
    check_sampling(max_new_tokens, temperature, top_k, top_p)
    if ids.ndim != 2:
        raise GptwrightError(
            f"ids have shape {tuple(ids.shape)}, and must be (batch, length); use ids[None] for one row"
        )
    check_room(model, ids.shape[1], max_new_tokens, overflow)
    if not max_new_tokens:
        return
    writing = _Writing(model, _rows(ids, padding_mask), max_new_tokens)
    while True:
        token = sample(writing.logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        yield token
        max_new_tokens -= 1
        if not max_new_tokens:
            return
        writing.add(token.tolist())


class _Writing:
    """Rows of tokens that grow by one at a time, with the logits (B, V) of what comes next."""

    def __init__(self, model: "GPT", rows: list[list[int]], new: int) -> None:
        longest = max(len(row) for row in rows)
        self.rows, self.decoder = rows, Decoder(model, rows=len(rows), length=min(longest + new, max(longest, ROOM)))
        self.logits = torch.stack([self.decoder.read(row, ids, CHUNK) for row, ids in enumerate(rows)])

    def add(self, tokens: list[int]) -> None:
        """Append one token to every row."""
        for row, (ids, token) in enumerate(zip(self.rows, tokens, strict=True)):
            ids.append(token)
            if self.decoder.is_full(row):
                self.decoder.clear(row)
                if before := self.decoder.latest_half(ids)[:-1]:
                    self.decoder.read(row, before, CHUNK)
        self.logits = self.decoder.step(tokens)


def _rows(ids: Tensor, mask: Tensor | None) -> list[list[int]]:
    """Return the real tokens of each row."""
    if mask is None:
        return ids.tolist()
    if mask.shape != ids.shape:
        raise GptwrightError(
            f"padding_mask has shape {tuple(mask.shape)} and ids {tuple(ids.shape)}; they must be equal"
        )
    rows = [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)]
    if [] in rows:
        raise GptwrightError(f"row {rows.index([])} of padding_mask has no real token; give each row at least one")
    return rows


def generate_ids(
    model: "GPT",
    ids: Tensor,
    max_new_tokens: int = 50,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    do_sample: bool = True,
    seed: int | None = None,
    padding_mask: Tensor | None = None,
    eos_id: int | None = None,
    overflow: Overflow = "slide",
) -> Tensor:
    """Return ``ids`` (B, T) followed by ``max_new_tokens`` new ones: (B, T + max_new_tokens).

    Args:
        model: the model, which is put into eval mode for the time being.
        ids: prompts, padded on the left where ``padding_mask`` is False.
        max_new_tokens: tokens to add to every row.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: sample among this many likeliest tokens.
        top_p: sample among the likeliest tokens that together reach this probability.
        do_sample: False takes the likeliest token, whatever the temperature.
        seed: makes the draw repeatable without touching torch's global generator.
        padding_mask: (B, T) bool, True at real tokens.
        eos_id: stop when every row has produced it; rows go on with it once they have.
        overflow: where positions end, ``slide`` goes on from the latest half of the context, ``refuse`` does not begin.
    """
    generator = None if seed is None else torch.Generator(ids.device).manual_seed(seed)
    out, done = [ids], torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    with evaluating(model):
        for token in stream_ids(
            model,
            ids,
            max_new_tokens,
            temperature=temperature if do_sample else 0,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
            padding_mask=padding_mask,
            overflow=overflow,
        ):
            if eos_id is not None:
                token = torch.where(done, eos_id, token)
                done = done | (token == eos_id)
            out.append(token[:, None])
            if eos_id is not None and bool(done.all()):
                break
    return torch.cat(out, 1)
