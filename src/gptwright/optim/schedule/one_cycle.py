"""One cycle: up from a low start to the peak, then down far below the start.

Source: Smith and Topin (2019), arXiv:1708.07120.

The curve is that of `torch.optim.lr_scheduler.OneCycleLR` with ``max_lr`` = the optimizer's lr.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, model_validator

from gptwright.config.slot import ComponentConfig
from gptwright.errors import ConfigError
from gptwright.optim.base import Fraction, Schedule

Divisor = Annotated[float, Field(ge=1)]


class OneCycle(Schedule):
    """Climbs for a third of the run and falls for the rest; with three phases the fall to the start mirrors
    the climb."""

    default_climb: ClassVar[float] = 0.3
    """Fraction of the run spent climbing when neither setting is given."""

    class Config(ComponentConfig):
        WITHOUT: ClassVar[dict[str, str]] = {
            "warmup_fraction": "one_cycle calls the fraction of its climb pct_start, as torch does; write pct_start"
        }

        warmup_steps: NonNegativeInt | None = None
        """Optimizer steps spent climbing; null leaves it to `pct_start`."""
        pct_start: Fraction | None = None
        """The climb as a fraction of the run's steps; both null means 0.3."""
        anneal: Literal["cos", "linear"] = "cos"
        """Shape of each phase."""
        div_factor: Divisor = 25.0
        """The run starts at 1 / div_factor of the peak."""
        final_div_factor: Divisor = 1e4
        """The run ends at 1 / final_div_factor of its start."""
        three_phase: bool = False
        """Mirror the climb, then fall to the end in a third phase, instead of one long fall."""

        @model_validator(mode="after")
        def _fits(self) -> "OneCycle.Config":
            steps, fraction = self.warmup_steps, self.pct_start
            if steps is not None and fraction is not None:
                raise ValueError(
                    f"warmup_steps {steps} and pct_start {fraction} both say how long the climb is; set one of them to "
                    "null"
                )
            if self.three_phase and fraction is not None and fraction > 0.5:
                raise ValueError(
                    f"pct_start is {fraction}, but three_phase spends it twice: it must be at most 0.5; lower it or "
                    "set three_phase to false"
                )
            return self

    EXAMPLES = ({}, {"pct_start": 0.4, "anneal": "linear", "three_phase": True}, {"warmup_steps": 10})

    config: Config

    def __init__(self, config: Any, total_steps: int) -> None:
        super().__init__(config, total_steps)
        start = 1 / self.config.div_factor
        end = start / self.config.final_div_factor
        top = self._climb() - 1  # step of the peak; torch counts from 0 and allows a half step
        self._phases = [(top, start, 1.0), (total_steps - 1.0, 1.0, end)]
        if self.config.three_phase:
            self._phases[1:] = [(2 * top, 1.0, start), (total_steps - 1.0, start, end)]

    def _climb(self) -> float:
        steps, fraction = self.config.warmup_steps, self.config.pct_start
        if steps is None:
            return (self.default_climb if fraction is None else fraction) * self.total_steps
        if steps > (longest := self.total_steps // (2 if self.config.three_phase else 1)):
            twice = ", of which three_phase spends the climb twice" if self.config.three_phase else ""
            raise ConfigError(
                f"schedule.warmup_steps is {steps} but the run has {self.total_steps} steps{twice}: a warm-up must fit "
                f"into the run; lower schedule.warmup_steps to at most {longest}, or raise train.steps"
            )
        return steps

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
