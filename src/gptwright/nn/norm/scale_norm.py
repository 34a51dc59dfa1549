"""Scale normalisation: one learned length for all vectors."""

from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from gptwright.nn.base import LayerContext, Norm


class ScaleNorm(Norm):
    """Give every vector the same learned length g, which begins at sqrt(width).

        g * x / max(|x|, eps)

    Nguyen and Salazar, 2019, https://arxiv.org/abs/1910.05895.
    """

    EXAMPLES = ({}, {"eps": 1e-3})

    class Config(Norm.Config):
        """Settings of scale normalisation."""

        eps: PositiveFloat = 1e-5
        """Smallest length divided by."""

    def __init__(self, config: Any, ctx: LayerContext, width: int | None = None) -> None:
        super().__init__(config, ctx, width)
        self.weight = nn.Parameter(torch.full((1,), float(self.width) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., width), computing in fp32."""
        wide = x.float()
        length = wide.norm(dim=-1, keepdim=True).clamp(min=self.config.eps)
        return (wide * (self.weight.float() / length)).to(x.dtype)
