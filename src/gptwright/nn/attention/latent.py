"""Latent attention: one compressed vector a token instead of its keys and values."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from gptwright.nn.base import LayerContext
from gptwright.nn.heads import split_heads
from gptwright.nn.scored import Scored
from gptwright.nn.slots import NORM, NormSlot
from gptwright.nn.state.cache import KeyValueCache
from gptwright.ops.decode_attention import decode_attention
from gptwright.ops.latent_attention import (
    Latents,
    Queries,
    absorbed_attention,
    expand,
    expanded_attention,
    per_head,
)
from gptwright.ops.self_attention import self_attention
from gptwright.ops.sequence import Sequence

_WITHOUT = {
    "n_kv_heads": "n_kv_heads is impossible with {type} attention, whose heads make keys and values of one latent; "
    "leave it out and choose kv_rank, or use softmax attention",
    "qk_norm": "qk_norm is impossible with {type} attention, which decodes without forming keys; leave it out, as "
    "latent_norm does its work, or use softmax attention",
    "window": "window is impossible with {type} attention, whose cache keeps a latent of every token; leave it out, or "
    "use local attention",
}
"""Settings of other attentions that mean nothing to this one, with the reason."""


class Latent(Scored):
    """Multi-head latent attention: a small latent a token holds the keys and values of all heads.

        c_j = norm(W_c x_j),   k_j = [W_k c_j, turned(W_r x_j)],   v_j = W_v c_j

    Positions work on a few features of their own, in each query head and in one key that all heads share, since a
    turned key could not be made of a latent. DeepSeek-V2, 2024, https://arxiv.org/abs/2405.04434.
    """

    EXAMPLES = (
        {"n_heads": 4, "kv_rank": 12, "head_dim": 8, "rope_dim": 4, "value_dim": 6},
        {"n_heads": 4, "kv_rank": 6, "q_rank": 10, "head_dim": 6, "rope_dim": 4, "value_dim": 8},
        {"n_heads": 4, "kv_rank": 16, "rope_dim": 8, "softcap": 5.0, "sinks": True, "scale": 0.3},
    )

    class Config(Scored.Config):
        """Settings of latent attention; sizes by default in the proportions of DeepSeek-V2."""

        head_dim: PositiveInt | None = None
        """Features of a query and key head that carry no position. Default `d_model / n_heads`."""
        value_dim: PositiveInt | None = None
        """Features of a value head. Default `head_dim`."""
        rope_dim: PositiveInt | None = None
        """Features of a query head, and of the one key that heads share, that positions turn; an even number, beside
        `head_dim`. Default half of `head_dim`, rounded down to even, and at least 2."""
        kv_rank: PositiveInt | None = None
        """Width of the latent that keys and values are made of. Default 4 `head_dim`."""
        q_rank: PositiveInt | None = None
        """Width of the latent that queries are made of. Default none: they are made of the input."""
        latent_norm: NormSlot = Field(default_factory=NORM.default("rms_norm"))
        """Norm of both latents."""
        qkv_bias: bool | None = None
        """Bias in the projections of the input; those of the latents have none. Default the model's `bias`."""
        out_bias: bool | None = None
        """Bias in the output projection. Default the model's `bias`."""

        WITHOUT = _WITHOUT

        def plain_width(self, ctx: LayerContext) -> int:
            """Return the features of a query or key head that carry no position."""
            return self.head_dim or max(1, ctx.d_model // self.n_heads)

        def value_width(self, ctx: LayerContext) -> int:
            """Return the features of a value head."""
            return self.value_dim or self.plain_width(ctx)

        def turned_width(self, ctx: LayerContext) -> int:
            """Return the features of a query head, and of the shared key, that positions turn."""
            return self.rope_dim or max(2, self.plain_width(ctx) // 4 * 2)

        def latent_width(self, ctx: LayerContext) -> int:
            """Return the width of the latent that keys and values are made of."""
            return self.kv_rank or 4 * self.plain_width(ctx)

        def check(self, ctx: LayerContext) -> Iterator[tuple[str, str]]:
            """Yield what does not fit: heads that do not divide, features that cannot be turned."""
            yield from super().check(ctx)
            if self.head_dim is None and ctx.d_model % self.n_heads:
                yield (
                    "n_heads",
                    f"n_heads {self.n_heads} must divide d_model {ctx.d_model} where head_dim is not set; choose a "
                    "divisor, or set head_dim",
                )
            turned = self.turned_width(ctx)
            if turned % 2:
                ways = f"{turned - 1} or {turned + 1}" if turned > 1 else "2"
                yield "rope_dim", f"rope_dim {turned} must be even, as positions turn pairs of features; use {ways}"
            else:
                yield from (("rope_dim", said) for said in ctx.position.problems_with_heads(turned))

        def flops_per_token(self, ctx: LayerContext, context: int) -> int:
            """Count forward FLOPs a token: projections, and mixing over ``context`` keys as in training."""
            widths = self.plain_width(ctx) + self.turned_width(ctx) + self.value_width(ctx)
            return super().flops_per_token(ctx, context) + 2 * self.n_heads * widths * context

        def state_bytes(self, ctx: LayerContext, length: int, element_size: int = 4) -> int:
            """Count the bytes of the latents and shared keys of one row."""
            return (self.latent_width(ctx) + self.turned_width(ctx)) * length * element_size

        def tp_plan(self, ctx: LayerContext) -> dict[str, str]:
            """Cut by heads; every device makes the latents for itself."""
            queries = "q_proj" if self.q_rank is None else "q_up_proj"
            return super().tp_plan(ctx) | {queries: "colwise", "kv_up_proj": "colwise", "o_proj": "rowwise"}

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        self.plain, self.turned = config.plain_width(ctx), config.turned_width(ctx)
        self.latent, self.value = config.latent_width(ctx), config.value_width(ctx)
        bias, queries = ctx.use_bias(config.qkv_bias), config.n_heads * (self.plain + self.turned)
        if config.q_rank is None:
            self.q_proj = nn.Linear(ctx.d_model, queries, bias=bias)
        else:
            self.q_down_proj = nn.Linear(ctx.d_model, config.q_rank, bias=bias)
            self.q_norm = config.latent_norm.build(ctx, config.q_rank)
            self.q_up_proj = nn.Linear(config.q_rank, queries, bias=False)
        self.kv_down_proj = nn.Linear(ctx.d_model, self.latent + self.turned, bias=bias)
        self.kv_norm = config.latent_norm.build(ctx, self.latent)
        self.kv_up_proj = nn.Linear(self.latent, config.n_heads * (self.plain + self.value), bias=False)
        self.o_proj = nn.Linear(config.n_heads * self.value, ctx.d_model, bias=ctx.use_bias(config.out_bias))

    def init_state(
        self, batch: int, length: int, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> KeyValueCache:
        """Return an empty cache for the latents and shared keys of ``length`` tokens; it grows when needed."""
        dtype = dtype or self.kv_up_proj.weight.dtype
        return KeyValueCache(batch, 1, length, self.latent, self.turned, joined=True, device=device, dtype=dtype)

    def forward(self, x: Tensor, seq: Sequence, state: KeyValueCache | None = None) -> Tensor:
        """Mix ``x`` (B, T, D); with a state, each token also sees the tokens fed before."""
        q, kept = self.project(x, seq)
        up = self.kv_up_proj.weight.unflatten(0, (-1, self.plain + self.value))  # (H, d + e, c)
        if state is None:
            return self.merge(self_attention(*expand(q, kept, up), seq, scoring=self.scoring))
        if seq.ragged:
            return self.merge(self._ragged(q, kept, up, seq, state))
        first = state.columns.length == 0
        stored = state.write(kept.latent.to(state.k.dtype), kept.turned.to(state.v.dtype), seq)
        kept = Latents(*(part.to(x.dtype) for part in stored))
        at: dict[str, Any] = {"scoring": self.scoring, "positions": (seq.positions, state.positions)}
        if self.absorbs(len(seq)):
            return self.merge(absorbed_attention(q, kept, up, state.columns.mask(seq), **at))
        if first:
            return self.merge(self_attention(*expand(q, kept, up), seq, scoring=self.scoring))
        return self.merge(expanded_attention(q, kept, up, state.columns.mask(seq), **at))

    def _ragged(self, q: Queries, kept: Latents, up: Tensor, seq: Sequence, state: KeyValueCache) -> Tensor:
        """Mix tokens of rows that stand at places of their own: latents are keys and values of a single head."""
        state.place(*kept, seq)
        scoring = self.scoring
        scoring = scoring._replace(scale=scoring.scale or 1 / math.sqrt(self.plain + self.turned))
        inward = per_head(q.plain, up[:, : self.plain].mT.contiguous())  # (B, H, T, c)
        queries = torch.cat((inward, q.turned), -1)
        mixed = decode_attention(queries, state.both, state.k, seq.positions, scoring=scoring)  # (B, H, T, c)
        return per_head(mixed, up[:, self.plain :].contiguous())

    def absorbs(self, queries: int) -> bool:
        """Whether so many queries at a time cost less with absorbed projections, whatever the number of keys.

        For each head and key, the products of a query are wider then by twice the latent less what it expands to,
        and the expansion is saved; so a single query is always absorbed.
        """
        latent, expanded = self.latent, self.plain + self.value
        return queries * (2 * latent - expanded) <= latent * expanded

    def project(self, x: Tensor, seq: Sequence) -> tuple[Queries, Latents]:
        """Return the queries of ``x`` (B, T, D) and what is kept of each token, with positions worked in."""
        q = self.q_proj(x) if self.config.q_rank is None else self.q_up_proj(self.q_norm(self.q_down_proj(x)))
        q = split_heads(q, self.plain + self.turned)  # (B, H, T, d + p)
        latent, k_turned = self.kv_down_proj(x)[:, None].split((self.latent, self.turned), -1)  # (B, 1, T, c) and p
        q_turned, k_turned = self.ctx.position.turn(q[..., self.plain :], k_turned, seq)
        return Queries(q[..., : self.plain], q_turned), Latents(self.kv_norm(latent), k_turned)

    def merge(self, mixed: Tensor) -> Tensor:
        """Join heads (B, H, T, e) and project back to (B, T, D)."""
        return self.o_proj(mixed.transpose(1, 2).flatten(2))
