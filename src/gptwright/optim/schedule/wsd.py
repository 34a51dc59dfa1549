"""Warm-up, stable, decay: constant for most of the run, then a short fall.

Source: Hu et al. (2024), arXiv:2404.06395. A run can be made longer without having chosen its length at
the start: only the fall moves. The shape ``one_minus_sqrt`` is from Haegele et al. (2024),
arXiv:2405.18392, who found it better than a straight line.
"""

import math
from typing import Any, Literal

from gptwright.errors import ConfigError
from gptwright.optim.base import Fraction, WarmupSchedule


class WSD(WarmupSchedule):
    """Holds the peak until the last part of the run."""

    class Config(WarmupSchedule.Config):
        decay_fraction: Fraction = 0.2
        """Fraction of the run's steps spent falling, at its end."""
        decay: Literal["one_minus_sqrt", "linear", "cosine"] = "one_minus_sqrt"
        """Shape of the fall."""
        min_ratio: Fraction = 0.0
        """Multiplier reached when all steps are done."""

    EXAMPLES = ({}, {"warmup_steps": 5, "decay_fraction": 0.5, "decay": "linear", "min_ratio": 0.1})

    config: Config

    def __init__(self, config: Any, total_steps: int) -> None:
        super().__init__(config, total_steps)
        self.decay_steps = int(self.config.decay_fraction * total_steps)
        if self.warmup + self.decay_steps > total_steps:
            raise ConfigError(
                f"schedule wsd warms up for {self.warmup} and decays for {self.decay_steps} steps, but the "
                f"run has {total_steps}: both must fit; lower schedule.warmup_steps or schedule.decay_fraction, "
                "or raise train.steps"
            )

    def after_warmup(self, step: int) -> float:
        """Return 1, or in the last ``decay_fraction`` of the run the fall to ``min_ratio``."""
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
