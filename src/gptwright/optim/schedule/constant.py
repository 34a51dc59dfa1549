"""The same learning rate throughout, after a warm-up if one is asked for."""

from gptwright.optim.base import WarmupSchedule


class Constant(WarmupSchedule):
    """Always 1 after the warm-up; no warm-up unless set."""

    default_warmup = 0.0

    EXAMPLES = ({}, {"warmup_steps": 10})

    def after_warmup(self, step: int) -> float:
        """Return 1."""
        del step
        return 1.0
