"""Sliding-window attention as blocks: time and memory grow with T x window, never with T x T.

Each query sees the `window` latest positions, itself included (Beltagy et al., 2020,
https://arxiv.org/abs/2004.05150; Child et al., 2019, https://arxiv.org/abs/1904.10509).

Shapes: B batch, H query heads, K key-value heads, T positions, N blocks of C positions, d head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.attention import PLAIN, Scoring, attention
from gptwright.ops.reference import beside
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
        v: (B, K, T, d).
        seq: the batch; its own rules (padding, documents) hold inside the window.
        window: how many positions a query sees, itself included; at least 1.
        scoring: what else happens to scores.

    Returns:
        (B, H, T, d).
    """
    length = q.shape[2]
    if length <= window and seq.is_causal:
        return attention(q, k, v, None, causal=True, scoring=scoring)
    block = max(window, MIN_BLOCK)
    if length <= 2 * block or not seq.gapless:
        return local_attention_reference(q, k, v, seq, window, scoring=scoring)
    return _blocked(q, k, v, seq, window, block, scoring)


def _blocked(q: Tensor, k: Tensor, v: Tensor, seq: Sequence, window: int, block: int, scoring: Scoring) -> Tensor:
    """Let each block of queries see its own block of keys and the one before it."""
    batch, heads, length, width = q.shape
    q, k, v = (_blocks(x, block) for x in (q, k, v))  # (B, N, heads, C, d)
    count = q.shape[1]
    k, v = _with_previous(k), _with_previous(v)  # (B, N, K, 2C, d)
    mask = seq.once(("blocks", window, block), lambda: _block_mask(seq, window, block))  # (B or 1, N, C, 2C)
    mask = mask.expand(batch, -1, -1, -1).flatten(0, 1)  # (B*N, C, 2C)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B*N, heads, ., d)
    here = torch.arange(block, 3 * block, device=mask.device)[None]
    positions = (here[:, :block], here - block)  # by index: the keys of a block lie right before its queries
    mixed = attention(q, k, v, mask, scoring=scoring, positions=positions)
    mixed = mixed.view(batch, count, heads, block, width).transpose(1, 2)  # (B, H, N, C, d)
    return mixed.reshape(batch, heads, count * block, width)[:, :, :length]


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
