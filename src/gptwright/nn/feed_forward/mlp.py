"""The two-layer feed-forward of the Transformer."""

from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from gptwright.nn.activations import ACTIVATIONS, Activation
from gptwright.nn.base import FeedForward, LayerContext
from gptwright.ops.sequence import Sequence


class MLP(FeedForward):
    """Widen, bend, narrow.

        down(activation(up(x)))

    Vaswani et al., 2017, https://arxiv.org/abs/1706.03762.
    """

    EXAMPLES = ({"d_ff": 48}, {"activation": "relu_squared", "bias": True})

    class Config(FeedForward.Config):
        """Settings of the two-layer feed-forward."""

        d_ff: PositiveInt | None = None
        """Inner width. Default `4 * d_model`."""
        activation: Activation = "gelu"
        """Pointwise bend: gelu, gelu_tanh (GPT-2's approximation), quick_gelu, relu, relu_squared, silu or tanh."""
        bias: bool | None = None
        """Bias in both projections. Default the model's `bias`."""

        def width(self, ctx: LayerContext) -> int:
            """Return the inner width."""
            return self.d_ff or 4 * ctx.d_model

        def tp_plan(self, ctx: LayerContext) -> dict[str, str]:
            """Cut the inner width."""
            del ctx
            return {"up_proj": "colwise", "down_proj": "rowwise"}

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        bias = ctx.use_bias(config.bias)
        self.up_proj = nn.Linear(ctx.d_model, config.width(ctx), bias=bias)
        self.down_proj = nn.Linear(config.width(ctx), ctx.d_model, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, seq: Sequence) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        del seq
        return self.down_proj(self.activation(self.up_proj(x)))
