"""Softmax attention (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762) with grouped keys and values.

Shapes: B batch, H query heads, K key-value heads, T query positions, S key positions, d head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.blocked_attention import blocked_attention, suits_blocks


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """Mix values by the softmax of scaled query-key products, through the fastest path that is exact.

    Args:
        q: (B, H, T, d).
        k: (B, K, S, d), H a multiple of K.
        v: (B, K, S, d).
        mask: (B, T, S) bool, True where a query sees a key; or None.
        causal: query i sees keys 0..i (needs T = S and no mask).
        dropout: probability of dropping a weight.

    Returns:
        (B, H, T, d).
    """
    grouped = q.shape[1] != k.shape[1]
    if causal and not dropout and suits_blocks(q):
        group = q.shape[1] // k.shape[1]
        return blocked_attention(q, *(x.repeat_interleave(group, 1) if grouped else x for x in (k, v)))
    if mask is not None:
        mask = mask[:, None]  # (B, 1, T, S)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, enable_gqa=grouped
    )


def attention_reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
    """Do what `attention` does, in the four lines of the paper, in the precision of the inputs."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)  # (B, H, S, d)
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, S)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()[None]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return scores.softmax(-1) @ v
