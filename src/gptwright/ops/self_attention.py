"""Softmax attention of a batch to itself: every token sees all earlier ones of its document.

Shapes: B batch, H query heads, K key-value heads, T positions, C positions of a block, d head width, e value width.
"""

import torch
from torch import Tensor

from gptwright.ops.attention import attention, takes_blocks
from gptwright.ops.attention_blocks import block_length
from gptwright.ops.attention_rules import PLAIN, Scoring, Sight
from gptwright.ops.blocked_attention import blocked_attention
from gptwright.ops.reference import beside
from gptwright.ops.sequence import Sequence


def self_attention_reference(q: Tensor, k: Tensor, v: Tensor, seq: Sequence, *, scoring: Scoring = PLAIN) -> Tensor:
    """Do what `self_attention` does under one dense (B, T, T) mask."""
    return attention(q, k, v, seq.visible(), scoring=scoring, positions=(seq.positions, seq.positions))


@beside(self_attention_reference)
def self_attention(q: Tensor, k: Tensor, v: Tensor, seq: Sequence, *, scoring: Scoring = PLAIN) -> Tensor:
    """Mix the values of all tokens that each token sees.

    Args:
        q: (B, H, T, d).
        k: (B, K, T, d), H a multiple of K.
        v: (B, K, T, e).
        seq: the batch; padding and documents are its affair.
        scoring: what else happens to scores.

    Returns:
        (B, H, T, e); finite and otherwise unspecified at padding.
    """
    if seq.is_causal:
        return attention(q, k, v, None, causal=True, scoring=scoring)
    if not takes_blocks(q, True, scoring):
        return self_attention_reference(q, k, v, seq, scoring=scoring)
    sight = Sight(causal=True, segments=(seq.segments, seq.segments), first_keys=first_keys(seq))
    return blocked_attention(q, k, v, sight, scoring=scoring, positions=(seq.positions, seq.positions))


def first_keys(seq: Sequence, window: int | None = None) -> tuple[int, ...] | None:
    """Return for each block of queries where its first document begins, in whole blocks; None in a traced graph."""
    if torch.compiler.is_compiling():
        return None
    block = block_length(len(seq), window)
    return seq.once(("first keys", block), lambda: _first_keys(seq, block))


def _first_keys(seq: Sequence, block: int) -> tuple[int, ...]:
    runs = seq.runs()
    index = torch.arange(len(seq), device=runs.device)
    begins = torch.zeros_like(runs, dtype=torch.bool)
    begins[:, 1:] = runs[:, 1:] != runs[:, :-1]
    starts = torch.where(begins, index, 0).cummax(1).values  # (B, T): where each token's document begins
    return tuple((starts[:, ::block].amin(0) // block * block).tolist())
