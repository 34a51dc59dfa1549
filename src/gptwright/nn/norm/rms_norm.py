"""Root-mean-square normalisation."""

from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from gptwright.nn.base import LayerContext, Norm
from gptwright.ops.norm import rms_norm


class RMSNorm(Norm):
    """Divide by the root mean square and scale.

        x / sqrt(mean(x^2) + eps) * weight

    Zhang and Sennrich, 2019, https://arxiv.org/abs/1910.07467.
    """

    EXAMPLES = ({}, {"eps": 1e-5, "scale": False})

    class Config(Norm.Config):
        """Settings of root-mean-square normalisation."""

        eps: PositiveFloat = 1e-6
        """Added to the mean square."""
        scale: bool = True
        """Whether to learn a scale for each feature."""

    def __init__(self, config: Any, ctx: LayerContext, width: int | None = None) -> None:
        super().__init__(config, ctx, width)
        self.weight = nn.Parameter(torch.ones(self.width)) if config.scale else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., width), with the mean square in fp32 at any precision."""
        return rms_norm(x, self.weight, self.config.eps)
