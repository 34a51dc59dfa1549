"""Attention over compressed keys and values (DeepSeek-V2, 2024, https://arxiv.org/abs/2405.04434, section 2.1).

Each token keeps one latent c, from which matrices U_k and U_v of each head make its key and value, and one
turned key, shared by all heads, that carries its position. Two ways to the same result:

- expanded: keys U_k c and values U_v c of all heads, then attention as usual. Best for many queries.
- absorbed: as q . (U_k c) = (U_k' q) . c and sum(w U_v c) = U_v sum(w c), queries and outputs pass through the
  matrices instead, and the latents are all that is read. Best for few queries over many keys: in decoding.

Shapes: B batch, H heads, T query positions, S key positions, c latent width, d width of the part of queries
and keys that is not turned, p width of the turned part, e value width.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.attention import attention
from gptwright.ops.attention_rules import PLAIN, Pair, Scoring
from gptwright.ops.native import kernels
from gptwright.ops.native.program import recording
from gptwright.ops.reference import beside


class Queries(NamedTuple):
    """Queries in two parts."""

    plain: Tensor
    """(B, H, T, d)."""
    turned: Tensor
    """(B, H, T, p)."""


class Latents(NamedTuple):
    """What is kept of each token: keys and values of all heads are made of it."""

    latent: Tensor
    """(B, 1, S, c)."""
    turned: Tensor
    """(B, 1, S, p): the part of its keys that carries its position."""


def expand(q: Queries, kept: Latents, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what attention as usual takes: queries (B, H, T, d + p), keys (B, H, S, d + p), values (B, H, S, e).

    ``up`` (H, d + e, c) makes of a latent the key and the value of each head.
    """
    width, heads = q.plain.shape[-1], len(up)
    both = F.linear(kept.latent[:, 0], up.flatten(0, 1))  # (B, S, H * (d + e))
    both = both.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, S, d + e)
    keys = torch.cat((both[..., :width], kept.turned.expand(-1, heads, -1, -1)), -1)  # (B, H, S, d + p)
    return torch.cat(q, -1), keys, both[..., width:]


def expanded_attention(
    q: Queries,
    kept: Latents,
    up: Tensor,
    mask: Tensor | None,
    *,
    scoring: Scoring = PLAIN,
    positions: Pair | None = None,
) -> Tensor:
    """Do what `absorbed_attention` does by forming the keys and values of all heads."""
    return attention(*expand(q, kept, up), mask, scoring=scoring, positions=positions)


@beside(expanded_attention)
def absorbed_attention(
    q: Queries,
    kept: Latents,
    up: Tensor,
    mask: Tensor | None,
    *,
    scoring: Scoring = PLAIN,
    positions: Pair | None = None,
) -> Tensor:
    """Mix values without forming anything of each head for each key.

    Args:
        q: queries of T positions.
        kept: latents and turned keys of S positions.
        up: (H, d + e, c), which makes of a latent the key and the value of each head.
        mask: (B, T, S) bool, True where a query sees a key; or None.
        scoring: what happens to scores; the scale is 1 / sqrt(d + p) by default.
        positions: where queries (B or 1, T) and keys (B or 1, S) stand, for slopes; by default at their indices.

    Returns:
        (B, H, T, e).
    """
    (heads, times), width = q.plain.shape[1:3], q.plain.shape[-1]
    latent, turned = kept.latent[:, 0], kept.turned[:, 0]
    up_k, up_v = up[:, :width], up[:, width:]  # (H, d, c), (H, e, c)
    inward = torch.einsum("bhtd,hdc->bhtc", q.plain, up_k)  # (B, H, T, c)
    rows = [part.flatten(1, 2) for part in (inward, q.turned)]  # all heads at once: they share their keys
    scores = torch.baddbmm(rows[1] @ turned.mT, rows[0], latent.mT)  # (B, H * T, S)
    scores = scores.unflatten(1, (heads, times)) * (scoring.scale or 1 / math.sqrt(width + q.turned.shape[-1]))
    weights = _weights(scores, mask, scoring, positions).to(latent.dtype)  # (B, H, T, S)
    mixed = (weights.flatten(1, 2) @ latent).unflatten(1, (heads, times))  # (B, H, T, c)
    return torch.einsum("bhtc,hec->bhte", mixed, up_v)


def per_head(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x`` (B, H, T, d) times each head's ``weight`` (H, e, d) transposed: (B, H, T, e)."""
    if recording() and kernels.suits(x, weight):
        return kernels.per_head(x, weight)
    return torch.einsum("bhtd,hed->bhte", x, weight)


def _weights(scores: Tensor, mask: Tensor | None, scoring: Scoring, positions: Pair | None) -> Tensor:
    """Return the weights (B, H, T, S), in fp32, of scaled scores."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    if scoring.slopes is not None:
        distance = _distance(scores, positions).to(scores.dtype)
        scores = scores - scoring.slopes[:, None, None] * distance[:, None]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    if scoring.sinks is None:
        return F.dropout(scores.softmax(-1), scoring.dropout)
    sinks = scoring.sinks[:, None, None].expand(*scores.shape[:-1], 1)
    weights = torch.cat((scores, sinks.to(scores.dtype)), -1).softmax(-1)[..., :-1]
    return F.dropout(weights, scoring.dropout)


def _distance(scores: Tensor, positions: Pair | None) -> Tensor:
    """(B or 1, T, S): how far each key lies behind each query; by default the last query stands at the last key."""
    if positions is None:
        at = torch.arange(scores.shape[3], device=scores.device)[None]
        positions = at[:, -scores.shape[2] :], at
    return positions[0][:, :, None] - positions[1][:, None, :]
