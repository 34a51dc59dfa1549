"""Layer normalisation."""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

from gptwright.nn.base import LayerContext, Norm


class LayerNorm(Norm):
    """Subtract the mean, divide by the standard deviation, scale and shift.

        (x - mean(x)) / sqrt(var(x) + eps) * weight + bias

    Ba et al., 2016, https://arxiv.org/abs/1607.06450.
    """

    EXAMPLES = ({}, {"bias": True, "eps": 1e-6})

    class Config(Norm.Config):
        """Settings of layer normalisation."""

        eps: PositiveFloat = 1e-5
        """Added to the variance."""
        bias: bool | None = None
        """Whether to shift. Default the model's `bias`."""

    def __init__(self, config: Any, ctx: LayerContext, width: int | None = None) -> None:
        super().__init__(config, ctx, width)
        self.weight = nn.Parameter(torch.ones(self.width))
        self.bias = nn.Parameter(torch.zeros(self.width)) if ctx.use_bias(config.bias) else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., width); the kernel sums and divides in fp32 at any precision."""
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.config.eps)
