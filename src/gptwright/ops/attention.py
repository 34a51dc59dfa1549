"""Softmax attention (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762) with grouped keys and values.

Shapes: B batch, H query heads, K key-value heads, T query positions, S key positions, d head width.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.blocked_attention import blocked_attention, suits_blocks
from gptwright.ops.reference import beside


class Scoring(NamedTuple):
    """What happens to scores on their way to weights; by default only the scale."""

    softcap: float | None = None
    """Bound c: a score s becomes c * tanh(s / c)."""
    slopes: Tensor | None = None
    """(H,) fp32: what each position of distance costs (ALiBi); subtracted after the softcap."""
    sinks: Tensor | None = None
    """(H,): a score that takes part in each head's softmax and carries no value."""
    scale: float | None = None
    """Factor on the products. Default 1 / sqrt(d)."""
    dropout: float = 0.0
    """Probability of dropping a weight."""

    @property
    def is_plain(self) -> bool:
        """Whether scores are only scaled: what torch's fused kernels compute."""
        return self.softcap is None and self.slopes is None and self.sinks is None


PLAIN = Scoring()


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    causal: bool = False,
    scoring: Scoring = PLAIN,
    positions: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Do what `attention` does, as the papers write it, in the precision of the inputs."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)  # (B, H, S, d)
    scores = q @ k.mT * (scoring.scale or 1 / math.sqrt(q.shape[-1]))  # (B, H, T, S)
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    if scoring.slopes is not None:
        scores = scores - scoring.slopes[:, None, None] * _distance(q, k, positions)[:, None]
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()[None]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    if scoring.sinks is not None:
        sinks = scoring.sinks[:, None, None].expand(*scores.shape[:-1], 1)
        weights = torch.cat((scores, sinks.to(scores.dtype)), -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return F.dropout(weights, scoring.dropout).to(v.dtype) @ v


def _distance(q: Tensor, k: Tensor, positions: tuple[Tensor, Tensor] | None) -> Tensor:
    """(B or 1, T, S): how far each key lies behind each query."""
    if positions is None:
        positions = torch.arange(q.shape[2], device=q.device)[None], torch.arange(k.shape[2], device=k.device)[None]
    return (positions[0][:, :, None] - positions[1][:, None, :]).float()


@beside(attention_reference)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    causal: bool = False,
    scoring: Scoring = PLAIN,
    positions: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mix values by the softmax of scaled query-key products, through the fastest path that is exact.

    Args:
        q: (B, H, T, d).
        k: (B, K, S, d), H a multiple of K.
        v: (B, K, S, e); e is usually d.
        mask: (B, T, S) bool, True where a query sees a key; or None.
        causal: query i sees keys 0..i (needs T = S and no mask).
        scoring: what else happens to scores.
        positions: where queries (B or 1, T) and keys (B or 1, S) stand, for slopes; by default at their indices.

    Returns:
        (B, H, T, e).
    """
    if not scoring.is_plain:
        return attention_reference(q, k, v, mask, causal=causal, scoring=scoring, positions=positions)
    grouped = q.shape[1] != k.shape[1]
    if causal and not scoring.dropout and scoring.scale is None and v.shape == k.shape and suits_blocks(q):
        group = q.shape[1] // k.shape[1]
        return blocked_attention(q, *(x.repeat_interleave(group, 1) if grouped else x for x in (k, v)))
    if mask is not None:
        mask = mask[:, None]  # (B, 1, T, S)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=scoring.dropout, is_causal=causal, scale=scoring.scale, enable_gqa=grouped
    )
