"""Gated delta attention: a memory of fixed size that forgets, and corrects what it holds for a key."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from gptwright.nn.base import Attention, LayerContext
from gptwright.nn.heads import NO_SCORES, split_heads, with_first_values
from gptwright.nn.slots import NORM, NormSlot
from gptwright.nn.state.recurrent import Recurrent
from gptwright.ops.delta_rule import gated_delta_rule, unit
from gptwright.ops.sequence import Sequence
from gptwright.ops.short_convolution import short_convolution

_WITHOUT = NO_SCORES | {
    "n_kv_heads": "n_kv_heads is impossible with {type} attention, as each head of values has a memory of its own; "
    "leave it out and choose n_key_heads, or use softmax attention",
    "qk_norm": "qk_norm is impossible with {type} attention, which gives queries and keys the length 1 already; leave "
    "it out, or use softmax attention",
}
"""Settings of other attentions that mean nothing to this one, with the reason."""


_SOFT = {"type": "rms_norm", "eps": 1e-3}
"""An output norm that does not blow up the rounding of what a query finds next to nothing in: for examples."""


class Memory(NamedTuple):
    """What a row remembers of its current document."""

    values: Tensor
    """(B, H, d, e) fp32: what is held for each key."""
    latest: Tensor
    """(B, conv_size - 1, features): the last real tokens' queries, keys and values before the convolution."""


class GatedDelta(Attention):
    """The gated delta rule: O(T) time, a state of fixed size, and room for what matters in it.

        S_i = a_i (I - b_i k_i k_i^T) S_(i-1) + b_i k_i v_i^T
        out_i = rms_norm(q_i S_i) * silu(gate(x_i))

    A token erases what the memory holds for its key in so far as it writes there; all of the memory decays by a
    factor a that the token chooses. Yang et al., 2024, https://arxiv.org/abs/2412.06464.
    """

    FILTERS = ("q_conv", "k_conv", "v_conv")
    EXAMPLES = (
        {"n_heads": 4},
        {"n_heads": 4, "n_key_heads": 2, "value_dim": 12, "conv_size": 3, "allow_neg_eigval": True, "out_norm": _SOFT},
        {"n_heads": 4, "conv_size": 0, "gate": False, "out_norm": _SOFT},
    )

    class Config(Attention.Config):
        """Settings of gated delta attention."""

        n_heads: PositiveInt
        """Heads of values, each with a memory of its own."""
        n_key_heads: PositiveInt | None = None
        """Heads of queries and keys, a divisor of `n_heads`: each serves as many heads of values in a row.
        Default `n_heads`."""
        head_dim: PositiveInt | None = None
        """Width of a query and key head. Default `d_model / n_heads`."""
        value_dim: PositiveInt | None = None
        """Width of a value head. Default `head_dim`."""
        conv_size: NonNegativeInt = 4
        """Tokens of the short convolution on queries, keys and values, each token included; 0 is none."""
        gate: bool = True
        """Whether outputs are multiplied by the SiLU of a projection of the input, after their norm."""
        allow_neg_eigval: bool = False
        """Whether a token may turn over what is held for its key, and not only replace it: it writes with strength 0 to
        2 instead of 0 to 1 (Grazzi et al., 2024, https://arxiv.org/abs/2411.12537)."""
        out_norm: NormSlot = Field(default_factory=lambda: NORM.resolve("rms_norm").Config(eps=1e-5))
        """Norm of each head's output. Default `rms_norm` with `eps` 1e-5."""
        qkv_bias: bool | None = None
        """Bias in the query, key, value and gate projections. Default the model's `bias`."""
        out_bias: bool | None = None
        """Bias in the output projection. Default the model's `bias`."""

        WITHOUT = _WITHOUT

        def key_heads(self) -> int:
            """Return the number of heads of queries and keys."""
            return self.n_key_heads or self.n_heads

        def key_width(self, ctx: LayerContext) -> int:
            """Return the width of a query and key head."""
            return self.head_dim or max(1, ctx.d_model // self.n_heads)

        def value_width(self, ctx: LayerContext) -> int:
            """Return the width of a value head."""
            return self.value_dim or self.key_width(ctx)

        def value_shape(self, ctx: LayerContext) -> tuple[int, int] | None:
            """Return the heads and width of the values."""
            return self.n_heads, self.value_width(ctx)

        def features(self, ctx: LayerContext) -> tuple[int, int, int]:
            """Return the features of all queries, all keys and all values."""
            keys = self.key_heads() * self.key_width(ctx)
            return keys, keys, self.n_heads * self.value_width(ctx)

        def check(self, ctx: LayerContext) -> Iterator[tuple[str, str]]:
            """Yield what does not fit: heads that do not divide, heads too odd for the positions."""
            yield from super().check(ctx)
            if self.head_dim is None and ctx.d_model % self.n_heads:
                yield (
                    "n_heads",
                    f"n_heads {self.n_heads} must divide d_model {ctx.d_model} where head_dim is not set; choose a "
                    "divisor, or set head_dim",
                )
            else:
                yield from (("head_dim", said) for said in ctx.position.problems_with_heads(self.key_width(ctx)))
            if self.n_heads % self.key_heads():
                yield (
                    "n_key_heads",
                    f"n_key_heads {self.n_key_heads} must divide n_heads {self.n_heads}, so that each serves as many "
                    "heads of values; choose a divisor",
                )

        def flops_per_token(self, ctx: LayerContext, context: int) -> int:
            """Count forward FLOPs a token, whatever the context: projections, and erasing, writing and reading.

            That is the work of the recurrence. Chunks do more in training, inside each; convolutions are not counted.
            """
            convolved = self.conv_size * sum(self.features(ctx))
            rule = 6 * self.n_heads * self.key_width(ctx) * self.value_width(ctx)
            return super().flops_per_token(ctx, context) - 2 * convolved + rule

        def state_bytes(self, ctx: LayerContext, length: int, element_size: int = 4) -> int:
            """Count the bytes of the memory, kept in fp32, and of the tokens that convolutions reach back to."""
            del length
            latest = max(self.conv_size - 1, 0) * sum(self.features(ctx))
            return 4 * self.n_heads * self.key_width(ctx) * self.value_width(ctx) + latest * element_size

        def tp_plan(self, ctx: LayerContext) -> dict[str, str]:
            """Cut by heads."""
            del ctx
            names = ["q_proj", "k_proj", "v_proj", "a_proj", "b_proj", "A_log", "dt_bias"]
            names += ["q_conv", "k_conv", "v_conv"] if self.conv_size else []
            names += ["gate_proj"] if self.gate else []
            return dict.fromkeys(names, "colwise") | {"o_proj": "rowwise"}

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        self.key_width, self.value_width = config.key_width(ctx), config.value_width(ctx)
        queries, keys, values = config.features(ctx)
        bias = ctx.use_bias(config.qkv_bias)
        self.q_proj = nn.Linear(ctx.d_model, queries, bias=bias)
        self.k_proj = nn.Linear(ctx.d_model, keys, bias=bias)
        self.v_proj = nn.Linear(ctx.d_model, values, bias=bias)
        self.a_proj = nn.Linear(ctx.d_model, config.n_heads, bias=False)
        self.b_proj = nn.Linear(ctx.d_model, config.n_heads, bias=False)
        self.A_log, self.dt_bias = (nn.Parameter(x) for x in decay_rates(config.n_heads))
        if config.conv_size:
            weights = (torch.empty(width, config.conv_size) for width in (queries, keys, values))
            bound = 1 / math.sqrt(config.conv_size)
            self.q_conv, self.k_conv, self.v_conv = (nn.Parameter(w.uniform_(-bound, bound)) for w in weights)
        if config.gate:
            self.gate_proj = nn.Linear(ctx.d_model, values, bias=bias)
        self.out_norm = config.out_norm.build(ctx, self.value_width)
        self.o_proj = nn.Linear(values, ctx.d_model, bias=ctx.use_bias(config.out_bias))

    def init_state(
        self, batch: int, length: int, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Recurrent[Memory]:
        """Return a memory of nothing, in fp32 whatever the length; what convolutions reach back to is in ``dtype``."""
        del length
        weights = (self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
        reach, features = max(self.config.conv_size - 1, 0), sum(len(weight) for weight in weights)
        values = torch.zeros(batch, len(self.A_log), self.key_width, self.value_width, device=device)
        latest = torch.zeros(batch, reach, features, device=device, dtype=dtype or weights[0].dtype)
        return Recurrent(Memory(values, latest))

    def forward(self, x: Tensor, seq: Sequence, state: Recurrent[Memory] | None = None) -> Tensor:
        """Mix ``x`` (B, T, D); with a state, after the tokens fed before."""
        values, latest = (None, None) if state is None else state.memory
        q, k, v, after = self.project(x, seq, latest)
        mixed, held = gated_delta_rule(q, k, v, *self.rates(x), seq, values)
        if state is not None:
            state.update(Memory(held, after.to(state.memory.latest.dtype)), seq)
        return self.merge(mixed, x)

    def project(self, x: Tensor, seq: Sequence, latest: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return queries and keys (B, H, T, d), values (B, H, T, e), and the latest tokens for convolutions to come."""
        v = split_heads(self.v_proj(x), self.value_width)
        v = with_first_values(v, seq, self.ctx).transpose(1, 2).flatten(2)  # (B, T, H*e)
        parts = (self.q_proj(x), self.k_proj(x), v)
        mixed, latest = self._convolved(torch.cat(parts, -1), seq, latest)
        q, k, v = F.silu(mixed).split([part.shape[-1] for part in parts], -1)
        q, k = self.ctx.position.turn(split_heads(q, self.key_width), split_heads(k, self.key_width), seq)
        group = self.config.n_heads // self.config.key_heads()
        q, k = unit(q) / math.sqrt(self.key_width), unit(k)
        if group > 1:
            q, k = q.repeat_interleave(group, 1), k.repeat_interleave(group, 1)  # (B, H, T, d)
        return q, k, split_heads(v, self.value_width), latest

    def _convolved(self, x: Tensor, seq: Sequence, latest: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve the projections ``x`` (B, T, features), in fp32 from here on."""
        if not self.config.conv_size:
            return x.float(), x.new_zeros(len(x), 0, x.shape[2])
        weight = torch.cat((self.q_conv, self.k_conv, self.v_conv))
        return short_convolution(x.float(), weight.float(), seq, latest)

    def rates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return how strongly each token of ``x`` (B, T, D) writes, and the log of what it leaves, (B, H, T) fp32."""
        beta = self.b_proj(x).float().sigmoid() * (2 if self.config.allow_neg_eigval else 1)
        step = -F.logsigmoid(-self.a_proj(x).float() - self.dt_bias.float())  # softplus, in a form that traces
        log_decay = -self.A_log.float().exp() * step
        return beta.transpose(1, 2), log_decay.transpose(1, 2)

    def merge(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Normalise heads (B, H, T, e), gate them by ``x`` (B, T, D), join them and project back to (B, T, D)."""
        mixed = self.out_norm(mixed.transpose(1, 2).to(x.dtype)).flatten(2)  # (B, T, H*e)
        return self.o_proj(mixed * F.silu(self.gate_proj(x)) if self.config.gate else mixed)


def decay_rates(n_heads: int) -> tuple[Tensor, Tensor]:
    """Draw ``A_log`` and ``dt_bias`` (H,): speeds from 0 to 16, and steps from 0.001 to 0.1, evenly in their logarithm.

    As in Mamba-2 (Dao and Gu, 2024, https://arxiv.org/abs/2405.21060): a step is the softplus of ``dt_bias``.
    """
    speed = torch.empty(n_heads).uniform_(0.01, 16)
    step = torch.empty(n_heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
    return speed.log(), step + torch.log(-torch.expm1(-step))
