"""Chunks of a sequence, with which a recurrence over tokens becomes matrix products.

Inside a chunk every token meets the earlier ones of its document directly; from chunk to chunk only a memory
passes. Chunks are worked on a span at a time, so that what is worked on fits into the cache however long the text.

Decays come as logarithms in fp32 and only exponentials of their sums are formed, which are never positive. A sum from
one token to another is a difference of two sums from the beginning, and would lose its digits to a strong decay that
lies before both: so each logarithm is split into a whole number of grains, whose sums are exact, and a small rest.

Shapes: B batch, H heads, T positions, N chunks of C positions; a span begins with a memory, so it has N + 1 of them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.sequence import Sequence

CHUNK = 64
SPAN = 8
"""Chunks worked on at a time."""
FLOOR = -128.0
"""Below this a decay is 0 in fp32, so that a stronger one changes nothing."""
GRAIN = 2.0**-10
"""64 sums of up to 128 in grains of this size need 23 bits: fp32 holds them exactly."""


class Span(NamedTuple):
    """Which tokens of a few successive chunks meet; None means all of them."""

    chunk: int
    real: Tensor | None
    """(B, 1, N, C) bool: tokens that are not padding."""
    meets: Tensor
    """(B or 1, 1, N or 1, C, C) bool: queries and the keys of their own chunk that they see."""
    reads: Tensor | None
    """(B, 1, N, C) bool: tokens of the document whose memory their chunk inherits."""
    writes: Tensor | None
    """(B, 1, N, C) bool: tokens of the document in which their chunk ends."""
    passes: Tensor
    """(B or 1, 1, N + 1, N + 1) bool: ends of chunks, and the earlier ends whose document still goes on there."""


class Decays(NamedTuple):
    """What is left of one token at another, as factors from 0 to 1; None means all of everything."""

    within: Tensor
    """(B or 1, H or 1, N or 1, C, C): of a key at each query of its chunk; 0 where the two do not meet."""
    since: Tensor | None
    """(B or 1, H or 1, N, C, 1): of the inherited memory at each token; 0 in another document."""
    until: Tensor | None
    """(B or 1, H or 1, N, C, 1): of each token at the end of its chunk; 0 where its document has ended."""
    across: Tensor
    """(B or 1, H or 1, N + 1, N + 1): of the memory at the end of one chunk at the end of another."""


def begins(seq: Sequence) -> Tensor:
    """(B, T) bool: first tokens of documents, which inherit nothing."""
    return seq.once("begins", lambda: seq.real & (seq.positions == 0))


def spans(seq: Sequence) -> list[Span]:
    """Return the spans that ``seq`` is worked on in, computed once a batch."""
    return seq.once("spans", lambda: list(_plain_spans(seq) if seq.start is not None else _mixed_spans(seq)))


def in_spans(x: Tensor | None, seq: Sequence) -> list[Any]:
    """Return ``x`` (B, H, T, ...) in pieces (B, H, N, C, ...) of each span, zeros after the last token.

    What is None is None in every span.
    """
    found = spans(seq)
    if x is None:
        return [None] * len(found)
    return [_chunks(part, span.chunk) for part, span in zip(x.split(SPAN * found[0].chunk, 2), found, strict=True)]


def joined(outs: list[Tensor], length: int) -> Tensor:
    """Join outputs (B, H, N, C, ...) of all spans: (B, H, T, ...)."""
    flat = [out.flatten(2, 3) for out in outs]
    return (torch.cat(flat, 2) if len(flat) > 1 else flat[0])[:, :, :length]


def exact(x: Tensor) -> Tensor:
    """Return ``x`` in fp32 and contiguous, so that not every product copies it anew."""
    return x.contiguous().float()


def scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    """Return ``x`` times ``factor``, where there is one."""
    return x if factor is None else x * factor


def decays(log_decay: Tensor | None, span: Span) -> Decays:
    """Return what is left of tokens at others, from ``log_decay`` (B or 1, H, N, C) at most 0, in fp32, or None."""
    if log_decay is None:
        reads, writes = (None if x is None else x[..., None] for x in (span.reads, span.writes))
        return Decays(span.meets, reads, writes, span.passes.float())
    exact, rest = (part.cumsum(-1) for part in _split(scaled(log_decay, span.real)))  # both (B, H, N, C)
    within = _differences(exact, rest).masked_fill(~span.meets, -torch.inf).exp()
    since = (exact + rest).exp()
    until = ((exact[..., -1:] - exact) + (rest[..., -1:] - rest)).exp()
    whole = (exact[..., -1].clamp(min=FLOOR), rest[..., -1])  # of each chunk: (B, H, N)
    ends = (F.pad(part, (1, 0)).cumsum(-1) for part in whole)  # (B, H, N + 1)
    across = _differences(*ends).masked_fill(~span.passes, -torch.inf).exp()
    return Decays(within, scaled(since, span.reads)[..., None], scaled(until, span.writes)[..., None], across)


def _split(log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """Split into whole grains, which have no gradient, and a rest of at most half a grain, which has all of it."""
    log_decay = log_decay.clamp(min=FLOOR)
    grains = (log_decay.detach() / GRAIN).round() * GRAIN
    return grains, log_decay - grains


def _differences(exact: Tensor, rest: Tensor) -> Tensor:
    """(..., C, C): of each sum with each earlier one."""
    return (exact[..., :, None] - exact[..., None, :]) + (rest[..., :, None] - rest[..., None, :])


def _chunks(x: Tensor, chunk: int) -> Tensor:
    pad = -x.shape[2] % chunk
    if pad:
        x = F.pad(x, (*(0, 0) * (x.ndim - 3), 0, pad))
    return x.unflatten(2, (-1, chunk))  # (B, H, N, C, ...)


def _shapes(length: int) -> Iterator[tuple[int, int]]:
    """Yield for each span the number of its chunks and their size."""
    chunk = min(length, CHUNK)
    for start in range(0, length, SPAN * chunk):
        yield -(-min(length - start, SPAN * chunk) // chunk), chunk


def _plain_spans(seq: Sequence) -> Iterator[Span]:
    device = seq.positions.device
    for count, chunk in _shapes(len(seq)):
        yield Span(
            chunk, None, _lower(chunk, device)[None, None, None], None, None, _lower(count + 1, device)[None, None]
        )


def _mixed_spans(seq: Sequence) -> Iterator[Span]:
    runs = begins(seq).long().cumsum(1)  # run 0 goes on from earlier calls; padding counts with what it follows
    start = 0
    before = torch.zeros_like(runs[:, :1])  # (B, 1): in which the memory stands
    for count, chunk in _shapes(len(seq)):
        stop = min(start + count * chunk, len(seq))
        pad = start + count * chunk - stop
        run = torch.cat((runs[:, start:stop], runs[:, stop - 1 : stop].expand(-1, pad)), 1).unflatten(1, (count, chunk))
        real = F.pad(seq.real[:, start:stop], (0, pad)).unflatten(1, (count, chunk))[:, None]
        ends = torch.cat((before, run[..., -1]), 1)  # (B, N + 1)
        meets = (run[..., :, None] == run[..., None, :]) & _lower(chunk, run.device)
        passes = (ends[:, :, None] == ends[:, None, :]) & _lower(count + 1, run.device)
        reads, writes = run == ends[:, :-1, None], run == ends[:, 1:, None]
        yield Span(chunk, real, meets[:, None], reads[:, None], writes[:, None], passes[:, None])
        start, before = stop, ends[:, -1:]


def _lower(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).tril()
