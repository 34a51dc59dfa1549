"""How long a run still takes.

Two clocks make the estimate: `train_seconds` of the metrics, which counts steps alone, gives the speed of training;
what the wall clock shows beyond it is evaluations, samples and saves, each counted by itself and expected as often
as the settings say. The first stretch, with its compiling, is left out.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

FEWEST, MOST, SHARE = 3, 20, 0.5
"""Training lines that tell the present speed: this share of those so far, long enough to be steady and short enough to
follow a change."""


@dataclass(frozen=True)
class Workload:
    """What a run has to do."""

    steps: int
    """Optimizer steps of the whole run."""
    every: Mapping[str, int] = field(default_factory=dict)
    """Steps between each `evaluation`, `sample` and `save`, 0 for at the end only; what is left out is not expected."""
    tokens: float = 1.0
    """Tokens of a step, after the ramp."""
    ramp: tuple[int, ...] = ()
    """Tokens of each of the first steps, where these are others."""
    evaluation_tokens: float = 0.0
    """Tokens of one evaluation; a guess at its time until one has been seen: a third of training on them."""

    def between(self, first: int, end: int) -> float:
        """Return the tokens of steps ``first`` to ``end``, counted from 0, the last not included."""
        inside = self.ramp[first:end]
        return sum(inside) + max(0, end - first - len(inside)) * self.tokens

    def to_come(self, kind: str, step: int, done: bool) -> int:
        """Return how often ``kind`` is still due after ``step`` steps; ``done``: at this step it is over already."""
        every = self.every.get(kind)
        if every is None:
            return 0
        last = 0 if done and step >= self.steps else 1  # at the end each comes once more
        if not every:
            return last
        here = int(not done and step > 0 and step % every == 0 and step < self.steps)
        return (self.steps - 1) // every - min(step, self.steps - 1) // every + here + last


class Pace:
    """The clock of a run: tell it what has happened, ask it how long the rest takes."""

    def __init__(self, work: Workload, start_step: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._clock, self._start_step = work, clock, start_step
        self._start = self._last = clock()
        self._step, self._trained = start_step, math.nan
        self._lines: deque[tuple[float, float]] = deque(maxlen=2 * MOST)  # (seconds, tokens) of stretches
        self._at = dict.fromkeys(work.every, -1)
        self._costs: dict[str, deque[float]] = {kind: deque(maxlen=5) for kind in work.every}
        self._warm = False
        self._pauses, self._counted_from = 0.0, start_step
        self._estimate = math.nan

    @property
    def step(self) -> int:
        """The last step that it was told of."""
        return self._step

    def elapsed(self) -> float:
        """Return seconds since the clock was started."""
        return self._clock() - self._start

    def left(self) -> float:
        """Return the seconds still to go, never less than 0; NaN while nothing is known."""
        if self._step >= self._work.steps:
            return 0.0
        left = self._estimate - (self._clock() - self._last)
        return left if math.isnan(left) else max(0.0, left)

    def note(self, step: int, trained: float = math.nan, event: str = "") -> None:
        """Say that ``step`` is reached after ``trained`` seconds of training alone, if known.

        ``event`` is what has just been completed besides training, a word of `Workload.every`, or nothing.
        """
        now = self._clock()
        stretch = self._trained_since(now, step, trained)
        pause = max(0.0, now - self._last - stretch)
        if event in self._costs:
            self._costs[event].append(pause)
            self._at[event] = step
        elif math.isfinite(self._estimate):  # saves, and what nobody announced
            self._pauses += pause
        if step > self._step:
            self._lines.append((stretch, self._work.between(self._step, step)))
            if not self._warm and len(self._lines) == 2:
                self._lines.popleft()  # the first stretch compiles and warms up
                self._warm, self._counted_from = True, self._step
        self._last, self._step = now, max(step, self._step)
        self._trained = trained if math.isfinite(trained) else self._trained + stretch
        self._estimate = self._whole()

    def _trained_since(self, now: float, step: int, trained: float) -> float:
        """Return the seconds of training since the last note."""
        if math.isfinite(trained) and math.isfinite(self._trained):
            return max(0.0, trained - self._trained)
        rate = self._rate()
        if step == self._step:
            return 0.0
        if math.isfinite(trained) or math.isnan(rate):
            return now - self._last
        return min(now - self._last, rate * self._work.between(self._step, step))

    def _rate(self) -> float:
        """Return the present seconds a token."""
        recent = list(self._lines)[-max(FEWEST, round(SHARE * len(self._lines))) :]
        tokens = sum(tokens for _, tokens in recent)
        return sum(seconds for seconds, _ in recent) / tokens if tokens else math.nan

    def _whole(self) -> float:
        """Return the seconds from the last note to the end."""
        if self._step - self._start_step <= 1:
            return math.nan  # one step, and it compiled: it says nothing of the others
        rate = self._rate()
        steps = self._work.steps - self._step
        due = sum(
            self._work.to_come(kind, self._step, self._at[kind] == self._step) * self._cost(kind, rate)
            for kind in self._costs
        )
        seen = self._step - self._counted_from
        pauses = self._pauses / seen * steps if seen > 0 else 0.0
        return self._work.between(self._step, self._work.steps) * rate + due + pauses

    def _cost(self, kind: str, rate: float) -> float:
        costs = self._costs[kind]
        if costs:
            return sorted(costs)[len(costs) // 2] if len(costs) > 2 else costs[-1]
        return rate * self._work.evaluation_tokens / 3 if kind == "evaluation" else 0.0
