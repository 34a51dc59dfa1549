"""Attention over a cache in which every row stands at a place of its own.

A token is kept at the place of its position, or in a ring at its position modulo the ring's length. Nothing but
these places is read, so that rows of different lengths cost what each of them needs, and nothing is padded.

Shapes: B sequences, H query heads, J key-value heads, T queries of a sequence, L places of a cache, d head width,
e value width.
"""

import torch
from torch import Tensor

from gptwright.ops.attention import attention
from gptwright.ops.attention_rules import PLAIN, Scoring
from gptwright.ops.native import kernels
from gptwright.ops.native.program import recording
from gptwright.ops.reference import beside

_BLOCK = 64
"""The reference reads whole blocks of places, so that shapes repeat."""


def store_reference(x: Tensor, cache: Tensor, positions: Tensor, ring: int) -> None:
    """Do what `store` does, by torch's scatter."""
    places = (positions % ring)[:, None, :, None].expand_as(x)
    cache.scatter_(2, places, x.to(cache.dtype))


@beside(store_reference)
def store(x: Tensor, cache: Tensor, positions: Tensor, ring: int) -> None:
    """Write ``x`` (B, J, T, d) into ``cache`` (B, J, L, d), each token at its position (B, T) modulo ``ring``."""
    if recording() and kernels.suits(x, cache):
        kernels.store(x, cache, positions, ring)
    else:
        store_reference(x, cache, positions, ring)


def decode_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    *,
    ring: int | None = None,
    window: int | None = None,
    scoring: Scoring = PLAIN,
) -> Tensor:
    """Do what `decode_attention` does, by a mask over all places that any row has reached."""
    reached = int(positions.max()) + 1
    length = min(ring or k.shape[2], -(-reached // _BLOCK) * _BLOCK)
    places = torch.arange(length, device=q.device)
    last = positions[:, -1:]
    keys = places.expand(len(q), -1) if ring is None else last - (last - places) % ring  # (B, L): what stands there
    distance = positions[:, :, None] - keys[:, None, :]  # (B, T, L)
    mask = (distance >= 0) & (keys >= 0)[:, None]
    if window is not None:
        mask = mask & (distance < window)
    k, v = k[:, :, :length].to(q.dtype), v[:, :, :length].to(q.dtype)
    return attention(q, k, v, mask, scoring=scoring, positions=(positions, keys))


@beside(decode_attention_reference)
def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    *,
    ring: int | None = None,
    window: int | None = None,
    scoring: Scoring = PLAIN,
) -> Tensor:
    """Mix the cached values of each row's document up to each query's own position.

    Args:
        q: (B, H, T, d).
        k: (B, J, L, d), H a multiple of J; what the queries' own tokens add is already there.
        v: (B, J, L, e).
        positions: (B, T) int64, where each query stands in its row.
        ring: length of the ring, if the cache is one; at most L.
        window: a query sees this many latest positions at most.
        scoring: what else happens to scores.

    Returns:
        (B, H, T, e).
    """
    if recording() and kernels.suits(q, k, v, scoring.sinks):
        return kernels.attend(q, k, v, positions, ring or k.shape[2], window, scoring)
    return decode_attention_reference(q, k, v, positions, ring=ring, window=window, scoring=scoring)
