"""Softmax attention (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762) with grouped keys and values.

Shapes: B batch, H query heads, K key-value heads, T query positions, S key positions, d head width, e value width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.attention_reference import attention_reference, causal_mask
from gptwright.ops.attention_rules import PLAIN, Pair, Scoring, Sight
from gptwright.ops.blocked_attention import blocked_attention, suits_blocks
from gptwright.ops.reference import beside

__all__ = ["PLAIN", "Scoring", "attention", "attention_reference"]


@beside(attention_reference)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    causal: bool = False,
    scoring: Scoring = PLAIN,
    positions: Pair | None = None,
) -> Tensor:
    """Mix values by the softmax of scaled query-key products, through the fastest path that is exact.

    Args:
        q: (B, H, T, d).
        k: (B, K, S, d), H a multiple of K.
        v: (B, K, S, e); e is usually d.
        mask: (B, T, S) bool, True where a query sees a key; or None.
        causal: a query sees no later key, the last query standing at the last key (needs T <= S and no mask).
        scoring: what else happens to scores.
        positions: where queries (B or 1, T) and keys (B or 1, S) stand, for slopes; by default at their indices.

    Returns:
        (B, H, T, e).
    """
    if takes_blocks(q, causal, scoring):
        sight = Sight(causal=causal, mask=mask)
        return blocked_attention(q, k, v, sight, scoring=scoring, positions=positions)
    if not scoring.is_plain:  # dropout in a traced graph
        return attention_reference(q, k, v, mask, causal=causal, scoring=scoring, positions=positions)
    if causal and q.shape[2] != k.shape[2]:
        causal, mask = False, causal_mask(q.shape[2], k.shape[2], q.device) if q.shape[2] > 1 else None
    if mask is not None:
        mask = mask[:, None]  # (B, 1, T, S)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=scoring.dropout, is_causal=causal, scale=scoring.scale, enable_gqa=grouped
    )


def takes_blocks(q: Tensor, causal: bool, scoring: Scoring) -> bool:
    """Whether blocks are the way for ``q`` (B, H, T, d): where torch's kernels have none, or a slower one."""
    if scoring.dropout:  # drawn from generators, which a traced graph has none of; torch forms all pairs on a CPU
        return not torch.compiler.is_compiling() and (q.device.type == "cpu" or not scoring.is_plain)
    return not scoring.is_plain or (causal and suits_blocks(q))
