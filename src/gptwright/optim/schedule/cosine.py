"""Warm-up, then half a cosine down to a floor.

Source: Loshchilov and Hutter (2017), arXiv:1608.03983, without the restarts.
"""

import math

from gptwright.optim.base import Fraction, WarmupSchedule


class Cosine(WarmupSchedule):
    """Falls slowly at first, fast in the middle, slowly at the end."""

    class Config(WarmupSchedule.Config):
        min_ratio: Fraction = 0.1
        """Multiplier reached when all steps are done."""

    EXAMPLES = ({}, {"warmup_steps": 10, "min_ratio": 0.0}, {"warmup_fraction": 0.1})

    config: Config

    def after_warmup(self, step: int) -> float:
        """Return min_ratio + (1 - min_ratio) (1 + cos(pi progress)) / 2."""
        low = self.config.min_ratio
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * self.progress(step)))
