"""Rotary positions."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field, PositiveFloat
from torch import Tensor

from gptwright.nn.base import LayerContext, Position
from gptwright.nn.frequencies import ScalingSlot
from gptwright.ops.rotary import cosines_and_sines, rotary_frequencies, rotate
from gptwright.ops.sequence import Sequence


class Rotary(Position):
    """Turn pairs of features of queries and keys by their positions, so that products depend on distance.

        (x_p, x_(p + d/2)) turned by i theta^(-2p / d)

    Su et al., 2021, https://arxiv.org/abs/2104.09864.
    """

    EXAMPLES = (
        {},
        {"theta": 500.0},
        {"fraction": 0.5, "scaling": {"type": "linear", "factor": 4.0}},
        {"scaling": {"type": "ntk", "factor": 4.0}},
        {"scaling": {"type": "yarn", "factor": 4.0, "original_max_seq_len": 64}},
        {"scaling": {"type": "llama3", "factor": 8.0, "original_max_seq_len": 64}},
    )

    class Config(Position.Config):
        """Settings of rotary positions."""

        theta: PositiveFloat = 10000.0
        """Ratio of the longest wavelength to the shortest."""
        fraction: float = Field(default=1.0, gt=0, le=1)
        """Share of the features of each head, its first ones, that are turned; an even number of them (GPT-NeoX,
        https://arxiv.org/abs/2204.06745)."""
        scaling: ScalingSlot | None = None
        """How turning is slowed down to read further than in training: `linear`, `ntk`, `yarn` or `llama3`. Default
        not at all."""

        def check(self, ctx: LayerContext) -> Iterator[tuple[str, str]]:
            """Yield what does not fit in the scaling."""
            del ctx
            if self.scaling is not None:
                yield from ((f"scaling.{key}", said) for key, said in self.scaling.problems(self.theta))

        def problems_with_heads(self, head_dim: int) -> Iterator[str]:
            """Yield why heads of this width cannot be turned in pairs."""
            width = self.rotated(head_dim)
            if self.fraction < 1 and (width % 2 or not width):
                yield _uneven(self.fraction, head_dim, width)
            elif width % 2:
                yield f"rotary positions need an even head_dim, and it is {head_dim}; change n_heads or head_dim"
            elif self.scaling is not None:
                yield from self.scaling.problems_with_width(width)

        def rotated(self, head_dim: int) -> int:
            """Return how many features of a head are turned."""
            return round(self.fraction * head_dim)

        def turn(self, q: Tensor, k: Tensor, seq: Sequence) -> tuple[Tensor, Tensor]:
            """Turn queries (B, H, T, d) and keys (B, K, T, d) by the positions of ``seq``."""
            width, dtype = self.rotated(q.shape[-1]), q.dtype
            scaling = None if self.scaling is None else tuple(vars(self.scaling).values())  # plain values trace
            key = ("rotary", width, self.theta, scaling, dtype)
            cos, sin = seq.once(key, lambda: self._angles(width, seq, dtype))
            return rotate(q, cos, sin), rotate(k, cos, sin)

        def _angles(self, width: int, seq: Sequence, dtype: Any) -> tuple[Tensor, Tensor]:
            positions = seq.positions[:1] if seq.start is not None else seq.positions
            if self.scaling is None:
                cos, sin = cosines_and_sines(positions, rotary_frequencies(width, self.theta, positions.device))
                return cos.to(dtype), sin.to(dtype)
            cos, sin = cosines_and_sines(positions, self.scaling.frequencies(width, self.theta, positions.device))
            length = self.scaling.magnitude()
            return (cos * length).to(dtype), (sin * length).to(dtype)

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)


def _uneven(fraction: float, head_dim: int, width: int) -> str:
    """Return why this share of a head cannot be turned, and the nearest shares that can."""
    near = sorted(sorted(range(2, head_dim + 1, 2), key=lambda even: abs(even - width))[:2])
    ways = " or ".join(f"{even / head_dim:.4g}" for even in near)
    return (
        f"rotary positions turn pairs of features, and fraction {fraction:g} of a head of {head_dim} features is "
        f"{width or 'none'} of them; use {f'fraction {ways}' if ways else 'wider heads'}"
    )
