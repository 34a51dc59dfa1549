"""The gated feed-forward."""

from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from gptwright.nn.activations import ACTIVATIONS, Activation
from gptwright.nn.base import FeedForward, LayerContext
from gptwright.ops.sequence import Sequence


class GLU(FeedForward):
    """Gated linear unit; with silu it is SwiGLU.

        down(activation(gate(x)) * up(x))

    Shazeer, 2020, https://arxiv.org/abs/2002.05202.
    """

    EXAMPLES = ({"d_ff": 48}, {"activation": "quick_gelu", "bias": True})

    class Config(FeedForward.Config):
        """Settings of the gated feed-forward."""

        d_ff: PositiveInt | None = None
        """Inner width. Default 8/3 of `d_model`, rounded up to 8: the parameters of a `4 * d_model` MLP."""
        activation: Activation = "silu"
        """Bend of the gate: silu (SwiGLU), gelu or gelu_tanh (GEGLU), relu (ReGLU), or any other of `mlp`."""
        bias: bool | None = None
        """Bias in all three projections. Default the model's `bias`."""

        def width(self, ctx: LayerContext) -> int:
            """Return the inner width."""
            return self.d_ff or -(-8 * ctx.d_model // 24) * 8

        def tp_plan(self, ctx: LayerContext) -> dict[str, str]:
            """Cut the inner width."""
            del ctx
            return {"gate_proj": "colwise", "up_proj": "colwise", "down_proj": "rowwise"}

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        width, bias = config.width(ctx), ctx.use_bias(config.bias)
        self.gate_proj = nn.Linear(ctx.d_model, width, bias=bias)
        self.up_proj = nn.Linear(ctx.d_model, width, bias=bias)
        self.down_proj = nn.Linear(width, ctx.d_model, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, seq: Sequence) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        del seq
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
