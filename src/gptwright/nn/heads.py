"""What attentions with heads share: settings, projections, positions and QK-norm.

Shapes: B batch, T query positions, D d_model, H query heads, K key-value heads, d head width.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from gptwright.nn.base import Attention, LayerContext
from gptwright.nn.slots import NormSlot
from gptwright.ops.sequence import Sequence

NO_SCORES = {
    "attention_dropout": "attention_dropout is impossible with {type} attention, which forms no weights to drop; leave "
    "it out and use the model's dropout",
    "scale": "scale is impossible with {type} attention, which forms no scores to multiply; leave it out, or use "
    "softmax attention",
    "softcap": "softcap is impossible with {type} attention, which forms no scores to bound; leave it out, or use "
    "softmax attention",
    "sinks": "sinks are impossible with {type} attention, which has no softmax for them to take part in; leave them "
    "out, or use softmax attention",
    "window": "window is impossible with {type} attention, whose memory holds all tokens and cannot let go of those "
    "outside a window; leave it out, or use local attention",
}
"""Settings of attentions by softmax that mean nothing to one that sums over keys, with the reason."""


class HeadAttention(Attention):
    """Attention that projects to queries, keys and values in heads, mixes, and projects back."""

    class Config(Attention.Config):
        """Settings that every attention with heads has."""

        n_heads: PositiveInt
        """Query heads."""
        n_kv_heads: PositiveInt | None = None
        """Key-value heads, a divisor of `n_heads`: fewer is grouped-query, 1 multi-query. Default `n_heads`."""
        head_dim: PositiveInt | None = None
        """Width of a head. Default `d_model / n_heads`."""
        qk_norm: NormSlot | None = None
        """Norm applied to each query and key head before positions (Henry et al., 2020). Default none."""
        qkv_bias: bool | None = None
        """Bias in the query, key and value projections. Default the model's `bias`."""
        out_bias: bool | None = None
        """Bias in the output projection. Default the model's `bias`."""

        def kv_heads(self) -> int:
            """Return the number of key-value heads."""
            return self.n_kv_heads or self.n_heads

        def width(self, ctx: LayerContext) -> int:
            """Return the width of a head."""
            return self.head_dim or max(1, ctx.d_model // self.n_heads)

        def value_shape(self, ctx: LayerContext) -> tuple[int, int] | None:
            """Return the heads and width of the values."""
            return self.kv_heads(), self.width(ctx)

        def check(self, ctx: LayerContext) -> Iterator[tuple[str, str]]:
            """Yield what does not fit: heads that do not divide, heads too odd for the positions."""
            yield from super().check(ctx)
            divides = self.head_dim is not None or ctx.d_model % self.n_heads == 0
            if not divides:
                yield "n_heads", _does_not_divide(self.n_heads, ctx.d_model)
            if self.n_heads % self.kv_heads():
                yield (
                    "n_kv_heads",
                    f"n_kv_heads {self.n_kv_heads} must divide n_heads {self.n_heads}; "
                    f"choose one of {_divisors(self.n_heads)}",
                )
            if divides:
                yield from (("head_dim", said) for said in ctx.position.problems_with_heads(self.width(ctx)))

        def mixing_flops(self, ctx: LayerContext, context: int) -> int:
            """Count forward FLOPs a token of the mixing itself, beside the projections."""
            return 4 * self.n_heads * self.width(ctx) * context

        def flops_per_token(self, ctx: LayerContext, context: int) -> int:
            """Count forward FLOPs a token: projections and mixing over ``context`` keys."""
            return super().flops_per_token(ctx, context) + self.mixing_flops(ctx, context)

        def state_bytes(self, ctx: LayerContext, length: int, element_size: int = 4) -> int:
            """Count the bytes of keys and values of one row."""
            return 2 * self.kv_heads() * self.width(ctx) * length * element_size

        def tp_plan(self, ctx: LayerContext) -> dict[str, str]:
            """Cut by heads."""
            del ctx
            return {"q_proj": "colwise", "k_proj": "colwise", "v_proj": "colwise", "o_proj": "rowwise"}

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        self.head_dim = config.width(ctx)
        inner, kv_inner = config.n_heads * self.head_dim, config.kv_heads() * self.head_dim
        qkv_bias = ctx.use_bias(config.qkv_bias)
        self.q_proj = nn.Linear(ctx.d_model, inner, bias=qkv_bias)
        self.k_proj = nn.Linear(ctx.d_model, kv_inner, bias=qkv_bias)
        self.v_proj = nn.Linear(ctx.d_model, kv_inner, bias=qkv_bias)
        self.o_proj = nn.Linear(inner, ctx.d_model, bias=ctx.use_bias(config.out_bias))
        if config.qk_norm is not None:
            self.q_norm = config.qk_norm.build(ctx, self.head_dim)
            self.k_norm = config.qk_norm.build(ctx, self.head_dim)

    def project(self, x: Tensor, seq: Sequence) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, d), keys and values (B, K, T, d), QK-normed, without positions."""
        q, k, v = (split_heads(proj(x), self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if self.config.qk_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, with_first_values(v, seq, self.ctx)

    @property
    def kv_heads_here(self) -> int:
        """Key-value heads that this module has: fewer than the settings say where heads are cut over devices."""
        return self.k_proj.weight.shape[0] // self.head_dim

    def turn(self, q: Tensor, k: Tensor, seq: Sequence) -> tuple[Tensor, Tensor]:
        """Work the positions of ``seq`` into queries and keys."""
        return self.ctx.position.turn(q, k, seq)

    def merge(self, mixed: Tensor) -> Tensor:
        """Join heads (B, H, T, d) and project back to (B, T, D)."""
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def split_heads(x: Tensor, width: int) -> Tensor:
    """Return ``x`` (B, T, heads * width) as heads (B, heads, T, width)."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def with_first_values(v: Tensor, seq: Sequence, ctx: LayerContext) -> Tensor:
    """Mix the first layer's values of the same tokens into ``v`` (Zhou et al., 2024, https://arxiv.org/abs/2410.17897)."""
    if not ctx.value_residual:
        return v
    if ctx.layer_index == 0:
        seq.memo["first values"] = v
        return v
    return torch.lerp(v, seq.memo["first values"], ctx.value_residual)


def _divisors(n: int) -> list[int]:
    low = [i for i in range(1, math.isqrt(n) + 1) if n % i == 0]
    return sorted({*low, *(n // i for i in low)})


def _does_not_divide(n_heads: int, d_model: int) -> str:
    near = sorted(_divisors(d_model), key=lambda d: (abs(d - n_heads), d))[:2]
    choice = " or ".join(str(d) for d in sorted(near))
    return f"n_heads {n_heads} must divide d_model {d_model}; use {choice} heads, or set head_dim"
