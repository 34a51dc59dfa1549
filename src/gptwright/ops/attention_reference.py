"""Softmax attention as the papers write it: what every faster path must agree with.

Shapes: B batch, H query heads, K key-value heads, T query positions, S key positions, d head width, e value width.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.attention_rules import PLAIN, Pair, Scoring, Sight


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    causal: bool = False,
    scoring: Scoring = PLAIN,
    positions: Pair | None = None,
) -> Tensor:
    """Do what `attention` does in the precision of the inputs."""
    return sighted_reference(q, k, v, Sight(causal=causal, mask=mask), scoring=scoring, positions=positions)


def sighted_reference(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, *, scoring: Scoring = PLAIN, positions: Pair | None = None
) -> Tensor:
    """Do what `blocked_attention` does with scores of all pairs."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)  # (B, H, S, .)
    scores = q @ k.mT * (scoring.scale or 1 / math.sqrt(q.shape[-1]))  # (B, H, T, S)
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    if scoring.slopes is not None:
        scores = scores - scoring.slopes[:, None, None] * _distance(q, k, positions)[:, None]
    if sight.causal:
        seen = causal_mask(q.shape[2], k.shape[2], q.device, sight.window)
        scores = scores.masked_fill(~seen[:, None], -torch.inf)
    hidden = sight.hidden(slice(None), slice(None))
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None], -torch.inf)
    if scoring.sinks is not None:
        sinks = scoring.sinks[:, None, None].expand(*scores.shape[:-1], 1)
        weights = torch.cat((scores, sinks.to(scores.dtype)), -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return F.dropout(weights, scoring.dropout).to(v.dtype) @ v


def causal_mask(queries: int, keys: int, device: Any, window: int | None = None) -> Tensor:
    """(1, T, S) bool: True at the latest keys up to the query's own; the last query stands at the last key."""
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask[None] if window is None else mask.triu(keys - queries - window + 1)[None]


def _distance(q: Tensor, k: Tensor, positions: Pair | None) -> Tensor:
    """(B or 1, T, S): how far each key lies behind each query."""
    if positions is None:
        at = torch.arange(k.shape[2], device=k.device)[None]
        positions = at[:, -q.shape[2] :], at
    return (positions[0][:, :, None] - positions[1][:, None, :]).float()
