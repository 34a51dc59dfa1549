"""What a scaling of rotary positions must offer, and its slot.

A scaling turns pairs of features more slowly than they were turned in training, so that a model reads
further than it was trained. One file each in the folder `scaling`; the listing is the menu.

Shapes: r rotated width.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from gptwright.config.slot import Component, ComponentConfig, Slot


class Scaling(Component):
    """Changes how fast rotary positions turn; nothing but its settings is ever built."""

    class Config(ComponentConfig):
        """Settings of a scaling."""

        factor: float = Field(ge=1)
        """How many times further than in training the model is to read."""

        def frequencies(self, width: int, theta: float, device: Any) -> Tensor:
            """Return how far (r/2,) fp32 each pair of ``width`` features is turned a position, in radians."""
            raise NotImplementedError(f"{self.owner.__name__}.Config must define frequencies(width, theta, device)")

        def magnitude(self) -> float:
            """Return the factor on queries and keys where they are turned."""
            return 1.0

        def problems(self, theta: float) -> Iterable[tuple[str, str]]:
            """Yield ``(key, sentence)`` for settings that do not fit each other, or ``theta``."""
            del theta
            return ()

        def problems_with_width(self, width: int) -> Iterable[str]:
            """Yield why ``width`` turned features cannot be used."""
            del width
            return ()


SCALING = Slot("scaling", package="gptwright.nn.scaling", base="gptwright.nn.frequencies:Scaling")

ScalingSlot = Annotated[Scaling.Config, SCALING]
