"""One cycle: up from a low start to the peak, then down far below the start.

Source: Smith and Topin (2019), arXiv:1708.07120.

The curve is that of `torch.optim.lr_scheduler.OneCycleLR` with ``max_lr`` = the optimizer's lr.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gptwright.config.slot import ComponentConfig
from gptwright.optim.base import Fraction, Schedule

Divisor = Annotated[float, Field(ge=1)]


class OneCycle(Schedule):
    """Climbs for a third of the run and falls for the rest; with three phases the fall to the start mirrors
    the climb."""

    class Config(ComponentConfig):
        pct_start: Fraction = 0.3
        """Fraction of the run spent climbing."""
        anneal: Literal["cos", "linear"] = "cos"
        """Shape of each phase."""
        div_factor: Divisor = 25.0
        """The run starts at 1 / div_factor of the peak."""
        final_div_factor: Divisor = 1e4
        """The run ends at 1 / final_div_factor of its start."""
        three_phase: bool = False
        """Mirror the climb, then fall to the end in a third phase, instead of one long fall."""

        @model_validator(mode="after")
        def _mirror_fits(self) -> "OneCycle.Config":
            if self.three_phase and self.pct_start > 0.5:
                raise ValueError(
                    f"pct_start is {self.pct_start}, but three_phase spends it twice: it must be at most "
                    "0.5; lower it or set three_phase to false"
                )
            return self

    EXAMPLES = ({}, {"pct_start": 0.4, "anneal": "linear", "three_phase": True})

    config: Config

    def __init__(self, config: Any, total_steps: int) -> None:
        super().__init__(config, total_steps)
        start = 1 / self.config.div_factor
        end = start / self.config.final_div_factor
        top = self.config.pct_start * total_steps - 1  # step of the peak; torch counts from 0 and allows a half step
        self._phases = [(top, start, 1.0), (total_steps - 1.0, 1.0, end)]
        if self.config.three_phase:
            self._phases[1:] = [(2 * top, 1.0, start), (total_steps - 1.0, start, end)]

    def scale(self, step: int) -> float:
        """Return the multiplier of step ``step``: the value of the phase it lies in."""
        step, begin = min(step, self.total_steps - 1), 0.0
        for end, low, high in self._phases:
            if step <= end:
                return self._between(low, high, (step - begin) / (end - begin) if end > begin else 1.0)
            begin = end
        return self._phases[-1][2]

    def _between(self, start: float, end: float, part: float) -> float:
        if self.config.anneal == "linear":
            return start + (end - start) * part
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))
