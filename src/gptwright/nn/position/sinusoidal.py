"""Sinusoidal positions."""

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from gptwright.nn.base import LayerContext, Position
from gptwright.ops.sequence import Sequence


class Sinusoidal(Position):
    """Add fixed sines and cosines of the position, of ever longer waves.

        x_i[2p] + sin(i theta^(-2p / D)),   x_i[2p + 1] + cos(i theta^(-2p / D))

    Vaswani et al., 2017, section 3.5, https://arxiv.org/abs/1706.03762.
    """

    EXAMPLES = ({}, {"scale": 0.02})

    class Config(Position.Config):
        """Settings of sinusoidal positions."""

        theta: PositiveFloat = 10000.0
        """Ratio of the longest wavelength to the shortest."""
        scale: PositiveFloat = 1.0
        """Factor on the sines, beside embeddings that begin at about 0.02."""

        def check(self, ctx: LayerContext) -> Iterator[tuple[str, str]]:
            """Yield what does not fit: sines and cosines come in pairs."""
            if ctx.d_model % 2:
                yield (
                    "type",
                    f"sinusoidal positions need an even d_model, and it is {ctx.d_model}; use d_model "
                    f"{ctx.d_model + 1}, or learned positions",
                )

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)

    def forward(self, x: Tensor, seq: Sequence) -> Tensor:
        """Add to ``x`` (B, T, D) the waves at each token's position."""
        positions = seq.positions[:1] if seq.start is not None else seq.positions
        exponents = torch.arange(0, x.shape[-1], 2, device=x.device, dtype=torch.float32) / x.shape[-1]
        angles = positions[..., None].float() * self.config.theta**-exponents  # (B, T, D/2)
        waves = torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)  # (B, T, D)
        return x + (self.config.scale * waves).to(x.dtype)
