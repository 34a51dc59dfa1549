"""A learning-rate range test: one short run whose learning rate grows at every step (Smith, 2015,
https://arxiv.org/abs/1506.01186).

While the rate is too small nothing happens; then the loss falls, steepest where steps are largest and still safe; in
the end it diverges. The model, the data and the step are those of the run, the schedule is the sweep.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptwright.errors import ConfigError, GptwrightError
from gptwright.ops.memory import kept_memory
from gptwright.optim.base import Schedule
from gptwright.train.config import SCHEDULE, RunConfig
from gptwright.train.display import Display
from gptwright.train.report.chart import smooth
from gptwright.train.run import RunFolder
from gptwright.train.setup import Setup

FEWEST = 10
"""Steps below which there is no curve to speak of."""
DIVERGED = 1.15
"""How many times the untrained model's loss the running average must be before the sweep is given up."""
MEMORY = 0.7
"""What the running average keeps at each step."""
SMOOTHED = 0.1
"""The part of the points over which the curve is averaged before its slope is looked at."""
LEAST_FALL = 0.02
"""How much of the untrained loss must be gained before any learning rate can be said to work."""
RISEN = 0.1
"""The loss has turned for good once this part of what had been gained is lost again."""


@dataclass(frozen=True)
class RangeTest:
    """What a sweep measured: equally long lists, a value a step; all losses are finite."""

    lr: list[float]
    """`optim.lr` of the step."""
    loss: list[float]
    """Training loss after the step, nats a token, on the batch that comes next."""
    start: float
    """The loss before the first step."""
    diverged: bool
    """Whether the sweep was given up before its end."""

    @property
    def smoothed(self) -> np.ndarray:
        """The loss as a moving average."""
        return smooth(np.array(self.loss), SMOOTHED)

    @property
    def steepest(self) -> float | None:
        """The learning rate at which the loss falls fastest; None where it does not fall."""
        curve, low = self.smoothed, self._lowest()
        if not self._learns() or low < 2:
            return None
        slope = np.gradient(curve[: low + 1], np.log(self.lr[: low + 1]))
        return _round(self.lr[int(np.argmin(slope))])

    @property
    def turned(self) -> float | None:
        """The learning rate from which on the loss rises for good; None where it does not."""
        curve, low = self.smoothed, self._lowest()
        limit = curve[low] + RISEN * (self.start - curve[low])
        above = np.flatnonzero(curve[low:] > limit)
        if self._learns() and above.size:
            return _round(self.lr[low + int(above[0])])
        return _round(self.lr[-1]) if self.diverged and self._learns() else None

    @property
    def tenth(self) -> float | None:
        """A tenth of `turned`, the usual rule of thumb."""
        return None if self.turned is None else _round(self.turned / 10)

    @property
    def suggested(self) -> float | None:
        """The steepest, but never more than a third of where the loss turns; None where nothing was learnt."""
        if self.steepest is None or self.turned is None:
            return self.steepest
        return min(self.steepest, _round(self.turned / 3))

    def sentence(self) -> str:
        """Return the advice in words."""
        if self.suggested is None:
            return (
                f"no learning rate from {self.lr[0]:.2g} to {self.lr[-1]:.2g} lowered the loss of {self.start:.3f}: "
                + ("lower --min, the first steps are too large already" if self.diverged else "raise --max, or --steps")
            )
        if self.turned is None:
            return (
                f"try optim.lr={self.suggested:.2g}; the loss had not diverged by {self.lr[-1]:.2g}, so larger ones "
                "may do: raise --max"
            )
        return f"try optim.lr={self.suggested:.2g}; from {self.turned:.2g} on the loss rises"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "suggested": self.suggested,
            "steepest": self.steepest,
            "tenth_of_divergence": self.tenth,
            "diverges_from": self.turned,
            "start_loss": self.start,
            "lr": self.lr,
            "loss": self.loss,
            "smoothed": self.smoothed.tolist(),
        }

    def _lowest(self) -> int:
        return int(np.argmin(self.smoothed))

    def _learns(self) -> bool:
        return self.start - float(self.smoothed.min()) >= LEAST_FALL * self.start


class Sweep(Schedule):
    """Learning rates from ``low`` to ``high``, evenly on a log scale; every parameter group in proportion."""

    def __init__(self, config: Any, total_steps: int, *, lr: float, low: float, high: float) -> None:
        super().__init__(config, total_steps)
        self._lr, self._low, self._growth = lr, low, math.log(high / low) / (total_steps - 1)

    def lr(self, step: int) -> float:
        """Return `optim.lr` of a step, counted from 0."""
        return self._low * math.exp(self._growth * step)

    def scale(self, step: int) -> float:
        """Return the multiplier of every group's own learning rate."""
        return self.lr(step) / self._lr


def find_lr(
    config: RunConfig,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    told: Callable[[int, float, float], None] | None = None,
) -> RangeTest:
    """Sweep the learning rate of a run that ``config`` describes; nothing is written.

    ``told`` is called with the step, the learning rate and the loss.

    Raises:
        ConfigError: the range or the number of steps makes no sense.
        GptwrightError: the untrained model's loss is not finite.
    """
    _refuse(low, high, steps)
    with torch.random.fork_rng(), Display(steps, enabled=False) as quiet:
        setup = Setup.of(_plain(config, steps), quiet, None, RunFolder(Path("find-lr")), ())
        work = setup.begin()
        work.stepper.schedule = sweep = Sweep(None, steps, lr=config.optim.lr, low=low, high=high)
        with setup.precision.scope(), kept_memory():
            losses: list[float] = []
            while len(losses) <= steps and not _given_up(losses):  # one more, to see what the last step did
                portion = work.plan.portion(work.step)
                result = work.learn(setup.data.batch(portion.first, portion.rows), portion)
                losses.append(result.loss)
                if told is not None:
                    told(len(losses) - 1, sweep.lr(len(losses) - 1), result.loss)
    return _measured(sweep, losses, complete=len(losses) > steps)


def _measured(sweep: Sweep, losses: list[float], *, complete: bool) -> RangeTest:
    if not math.isfinite(losses[0]):
        raise GptwrightError("the loss is not finite before the first step: the model itself is at fault, not the lr")
    diverged = not complete or not math.isfinite(losses[-1])
    after = [loss for loss in losses[1:] if math.isfinite(loss)]
    if not after:
        raise GptwrightError(f"the loss is not finite after one step at {sweep.lr(0):.2g}; lower --min")
    return RangeTest([sweep.lr(step) for step in range(len(after))], after, losses[0], diverged)


def _given_up(losses: list[float]) -> bool:
    """Whether the loss has diverged: not finite, or its running average well above where it began."""
    if len(losses) < 2:
        return bool(losses) and not math.isfinite(losses[0])
    average = losses[0]
    for loss in losses[1:]:
        average = MEMORY * average + (1 - MEMORY) * loss
    return not math.isfinite(losses[-1]) or average > DIVERGED * losses[0]


def _refuse(low: float, high: float, steps: int) -> None:
    if not 0 < low < high < math.inf:
        raise ConfigError(
            f"the sweep would go from {low:g} to {high:g}; --min must be above 0 and below --max, "
            "for example --min 1e-6 --max 1"
        )
    if steps < FEWEST:
        raise ConfigError(f"{steps} steps make no curve; --steps must be {FEWEST} or more, 100 is usual")


def _plain(config: RunConfig, steps: int) -> RunConfig:
    """Return the settings without what moves besides the learning rate."""
    still = {"steps": steps, "batch_ramp": None, "length_ramp": None, "average": None}
    train = config.train.model_copy(update=still)
    return config.model_copy(update={"train": train, "schedule": SCHEDULE.default("constant")()})


def _round(value: float) -> float:
    return float(f"{value:.2g}")
