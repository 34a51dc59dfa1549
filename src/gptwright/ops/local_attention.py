"""Sliding-window attention as blocks: time and memory grow with T x window, never with T x T.

Each query sees the `window` latest positions, itself included (Beltagy et al., 2020,
https://arxiv.org/abs/2004.05150; Child et al., 2019, https://arxiv.org/abs/1904.10509). On a CPU the blocks are
worked on one after the other, in the cache; elsewhere, and in long traced graphs, all at once.

Shapes: B batch, H query heads, K key-value heads, T positions, N blocks of C positions, d head width, e value width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.attention import attention
from gptwright.ops.attention_blocks import LONGEST
from gptwright.ops.attention_rules import PLAIN, Scoring, Sight
from gptwright.ops.blocked_attention import blocked_attention
from gptwright.ops.reference import beside
from gptwright.ops.self_attention import first_keys, self_attention
from gptwright.ops.sequence import Sequence

MIN_BLOCK = 64
"""Blocks smaller than this lose more in kernel calls than they save in work."""


def local_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, seq: Sequence, window: int, *, scoring: Scoring = PLAIN
) -> Tensor:
    """Do what `local_attention` does under one dense (B, T, T) mask."""
    positions = (seq.positions, seq.positions)
    return attention(q, k, v, seq.visible(window), scoring=scoring, positions=positions)


@beside(local_attention_reference)
def local_attention(q: Tensor, k: Tensor, v: Tensor, seq: Sequence, window: int, *, scoring: Scoring = PLAIN) -> Tensor:
    """Mix the values of the ``window`` latest visible positions.

    Args:
        q: (B, H, T, d).
        k: (B, K, T, d).
        v: (B, K, T, e).
        seq: the batch; its own rules (padding, documents) hold inside the window.
        window: how many positions a query sees, itself included; at least 1.
        scoring: what else happens to scores.

    Returns:
        (B, H, T, e); finite and otherwise unspecified at padding.
    """
    if q.shape[2] <= window:
        return self_attention(q, k, v, seq, scoring=scoring)
    way = _one_after_the_other if _suits_cache(q, scoring) else _all_at_once
    if seq.gapless:
        return way(q, k, v, seq, window, scoring)
    return _brought_together(way, q, k, v, seq, window, scoring)


def _suits_cache(q: Tensor, scoring: Scoring) -> bool:
    """Whether to go block by block: a loop on a CPU, which a traced graph holds unrolled and without generators."""
    traced = torch.compiler.is_compiling()
    return q.device.type == "cpu" and not (traced and (q.shape[2] > LONGEST or scoring.dropout))


def _brought_together(
    way: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, seq: Sequence, window: int, scoring: Scoring
) -> Tensor:
    """Take the padding that stands between real tokens out of their way, to the end of the row, and put it back."""
    order, back = seq.together()  # (B, T)
    real = seq.once("brought together", lambda: _reordered(seq, order))
    q, k, v = (x.gather(2, order[:, None, :, None].expand_as(x)) for x in (q, k, v))
    mixed = way(q, k, v, real, window, scoring)
    return mixed.gather(2, back[:, None, :, None].expand_as(mixed))


def _reordered(seq: Sequence, order: Tensor) -> Sequence:
    return Sequence(seq.positions.gather(1, order), seq.segments.gather(1, order))


def _one_after_the_other(q: Tensor, k: Tensor, v: Tensor, seq: Sequence, window: int, scoring: Scoring) -> Tensor:
    if seq.is_causal:
        return blocked_attention(q, k, v, Sight(causal=True, window=window), scoring=scoring)
    sight = Sight(True, window, segments=(seq.segments, seq.segments), first_keys=first_keys(seq, window))
    return blocked_attention(q, k, v, sight, scoring=scoring, positions=(seq.positions, seq.positions))


def _all_at_once(q: Tensor, k: Tensor, v: Tensor, seq: Sequence, window: int, scoring: Scoring) -> Tensor:
    """Let each block of queries see its own block of keys and the one before it."""
    block = max(window, MIN_BLOCK)
    if q.shape[2] <= 2 * block:
        return local_attention_reference(q, k, v, seq, window, scoring=scoring)
    batch, length = q.shape[0], q.shape[2]
    q, k, v = (_blocks(x, block) for x in (q, k, v))  # (B, N, heads, C, d)
    count = q.shape[1]
    k, v = _with_previous(k), _with_previous(v)  # (B, N, K, 2C, d)
    mask = seq.once(("blocks", window, block), lambda: _block_mask(seq, window, block))  # (B or 1, N, C, 2C)
    mask = mask.expand(batch, -1, -1, -1).flatten(0, 1)  # (B*N, C, 2C)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B*N, heads, ., d)
    mixed = attention(q, k, v, mask, scoring=scoring)  # distances by index: a block's keys lie right before its queries
    mixed = mixed.unflatten(0, (batch, count)).transpose(1, 2)  # (B, H, N, C, e)
    return mixed.flatten(2, 3)[:, :, :length]


def _blocks(x: Tensor, block: int) -> Tensor:
    x = F.pad(x, (0, 0, 0, -x.shape[2] % block))
    return x.unflatten(2, (-1, block)).transpose(1, 2)  # (B, N, heads, C, d)


def _with_previous(x: Tensor) -> Tensor:
    """Put each block's predecessor (nothing: zeros) before it: (B, N, K, C, d) -> (B, N, K, 2C, d)."""
    before = F.pad(x[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat((before, x), dim=3)


def _block_mask(seq: Sequence, window: int, block: int) -> Tensor:
    rows = 1 if seq.is_causal else len(seq.positions)  # without padding all rows share one mask
    pad = -len(seq) % block
    positions = F.pad(seq.positions[:rows], (0, pad)).unflatten(1, (-1, block))  # (B, N, C)
    segments = F.pad(seq.segments[:rows], (0, pad)).unflatten(1, (-1, block))
    before = F.pad(positions[:, :-1], (0, 0, 1, 0)), F.pad(segments[:, :-1], (0, 0, 1, 0), value=-1)
    key_positions = torch.cat((before[0], positions), 2)  # (B, N, 2C)
    key_segments = torch.cat((before[1], segments), 2)
    distance = positions[..., :, None] - key_positions[..., None, :]  # (B, N, C, 2C)
    same = segments[..., :, None] == key_segments[..., None, :]
    return same & (distance >= 0) & (distance < window)
