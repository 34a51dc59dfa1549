"""Warm-up, then a straight line down to a floor."""

from gptwright.optim.base import Fraction, WarmupSchedule


class Linear(WarmupSchedule):
    """Falls by the same amount at every step."""

    class Config(WarmupSchedule.Config):
        min_ratio: Fraction = 0.0
        """Multiplier reached when all steps are done."""

    EXAMPLES = ({}, {"warmup_steps": 10, "min_ratio": 0.1})

    config: Config

    def after_warmup(self, step: int) -> float:
        """Return 1 - (1 - min_ratio) progress."""
        return 1 - (1 - self.config.min_ratio) * self.progress(step)
