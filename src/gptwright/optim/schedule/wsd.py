"""Warm-up, stable, decay: constant for most of the run, then a short fall.

Source: Hu et al. (2024), arXiv:2404.06395. A run can be made longer without having chosen its length at
the start: only the fall moves. With the warm-up in steps, a run saved before its fall and one that was longer
from the beginning have seen the same rates. The shape ``one_minus_sqrt`` is from Haegele et al. (2024),
arXiv:2405.18392, who found it better than a straight line.
"""

import math
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeInt, model_validator

from gptwright.errors import ConfigError
from gptwright.optim.base import Fraction, WarmupSchedule


class WSD(WarmupSchedule):
    """Holds the peak until the last part of the run."""

    default_decay: ClassVar[float] = 0.2
    """Fraction of the run spent falling when neither setting is given."""

    class Config(WarmupSchedule.Config):
        decay_steps: NonNegativeInt | None = None
        """Optimizer steps spent falling, at the run's end; null leaves it to `decay_fraction`."""
        decay_fraction: Fraction | None = None
        """The fall as a fraction of the run's steps; both null means 0.2."""
        decay: Literal["one_minus_sqrt", "linear", "cosine"] = "one_minus_sqrt"
        """Shape of the fall."""
        min_ratio: Fraction = 0.0
        """Multiplier reached when all steps are done."""

        @model_validator(mode="after")
        def _one_way_to_fall(self) -> "WSD.Config":
            steps, fraction = self.decay_steps, self.decay_fraction
            if steps is not None and fraction is not None:
                raise ValueError(
                    f"decay_steps {steps} and decay_fraction {fraction} both say how long the fall is; set one of "
                    "them to null"
                )
            return self

    EXAMPLES = (
        {},
        {"warmup_steps": 5, "decay_fraction": 0.5, "decay": "linear", "min_ratio": 0.1},
        {"warmup_steps": 5, "decay_steps": 10},
    )

    config: Config

    def __init__(self, config: Any, total_steps: int) -> None:
        super().__init__(config, total_steps)
        self.decay_steps = self._decay_steps()
        if self.warmup + self.decay_steps > total_steps:
            raise ConfigError(
                f"schedule wsd warms up for {self.warmup} and decays for {self.decay_steps} steps, but the "
                f"run has {total_steps}: both must fit; make the warm-up or the decay shorter "
                "(schedule.warmup_steps, schedule.decay_steps), or raise train.steps"
            )

    def _decay_steps(self) -> int:
        if self.config.decay_steps is not None:
            return self.config.decay_steps
        fraction = self.default_decay if self.config.decay_fraction is None else self.config.decay_fraction
        return math.floor(fraction * self.total_steps + 1e-9)  # 0.29 * 100 is a little less than 29

    def after_warmup(self, step: int) -> float:
        """Return 1, or in the last part of the run the fall to ``min_ratio``."""
        fallen = step - (self.total_steps - self.decay_steps)
        if fallen <= 0:
            return 1.0
        low, part = self.config.min_ratio, fallen / self.decay_steps
        return low + (1 - low) * self._remaining(part)

    def _remaining(self, part: float) -> float:
        if self.config.decay == "linear":
            return 1 - part
        if self.config.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * part))
        return 1 - math.sqrt(part)
