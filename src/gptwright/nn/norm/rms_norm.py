"""Root-mean-square normalisation."""

from collections.abc import Iterator
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

    EXAMPLES = ({}, {"eps": 1e-5, "scale": False}, {"unit_offset": True})

    class Config(Norm.Config):
        """Settings of root-mean-square normalisation."""

        eps: PositiveFloat = 1e-6
        """Added to the mean square."""
        scale: bool = True
        """Whether to learn a scale for each feature."""
        unit_offset: bool = False
        """Whether the scale is 1 + weight, with weights that begin at 0, so that decay pulls it to 1 (Gemma,
        https://arxiv.org/abs/2403.08295)."""

        def check(self, ctx: LayerContext) -> Iterator[tuple[str, str]]:
            """Yield what does not fit: an offset of a scale that is not there."""
            del ctx
            if self.unit_offset and not self.scale:
                yield (
                    "unit_offset",
                    "unit_offset true adds 1 to the learned scale, and scale is false; leave one of them out",
                )

    def __init__(self, config: Any, ctx: LayerContext, width: int | None = None) -> None:
        super().__init__(config, ctx, width)
        self.weight = nn.Parameter(torch.full((self.width,), 1.0 - config.unit_offset)) if config.scale else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., width), with the mean square in fp32 at any precision."""
        weight = self.weight
        if weight is not None and self.config.unit_offset:
            weight = 1 + weight
        return rms_norm(x, weight, self.config.eps)
