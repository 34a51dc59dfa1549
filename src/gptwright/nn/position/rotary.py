"""Rotary positions."""

from collections.abc import Iterator
from typing import Any

from pydantic import PositiveFloat
from torch import Tensor

from gptwright.nn.base import LayerContext, Position
from gptwright.ops.rotary import rotary_angles, rotate
from gptwright.ops.sequence import Sequence


class Rotary(Position):
    """Turn queries and keys by their positions, so that products depend on distance (Su et al., 2021)."""

    EXAMPLES = ({}, {"theta": 500.0})

    class Config(Position.Config):
        """Settings of rotary positions."""

        theta: PositiveFloat = 10000.0
        """Ratio of the longest wavelength to the shortest."""

        def problems_with_heads(self, head_dim: int) -> Iterator[str]:
            """Yield why heads of this width cannot be turned in pairs."""
            if head_dim % 2:
                yield f"rotary positions need an even head_dim, and it is {head_dim}; change n_heads or head_dim"

        def turn(self, q: Tensor, k: Tensor, seq: Sequence) -> tuple[Tensor, Tensor]:
            """Turn queries (B, H, T, d) and keys (B, K, T, d) by the positions of ``seq``."""
            width, dtype = q.shape[-1], q.dtype
            cos, sin = seq.once(("rotary", width, self.theta, dtype), lambda: self._angles(width, seq, dtype))
            return rotate(q, cos, sin), rotate(k, cos, sin)

        def _angles(self, width: int, seq: Sequence, dtype: Any) -> tuple[Tensor, Tensor]:
            positions = seq.positions[:1] if seq.start is not None else seq.positions
            cos, sin = rotary_angles(positions, width, self.theta)
            return cos.to(dtype), sin.to(dtype)

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
