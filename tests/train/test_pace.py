"""The time left, in runs that a clock of ours plays: compiling, evaluations, saves, ramps, other speeds, resuming."""

import math
import random
from dataclasses import dataclass, field

import pytest

from gptwright.train.pace import Pace, Workload


@dataclass
class Played:
    """A run that takes the time that its settings say."""

    work: Workload
    seconds: object = 0.1
    """Of a step: a number, or a function of the step."""
    first: float = 0.0
    """More seconds of the first step, for compiling."""
    costs: dict = field(default_factory=dict)
    """Seconds of each `evaluation`, `sample`, `save`."""
    log_every: int = 10
    start: int = 0
    trained: float = 0.0
    """Seconds of training before this session."""
    announced: tuple = ("evaluation", "sample", "save")
    timed: bool = True
    """Whether lines have `train_seconds`."""
    now: float = 5000.0

    def play(self):
        """Yield (step, time, time left as shown) at each line, and last (steps, time, 0)."""
        pace, trained = Pace(self.work, self.start, lambda: self.now), self.trained
        for step in range(self.start, self.work.steps):
            took = self.seconds(step) if callable(self.seconds) else self.seconds
            took += self.first if step == self.start else 0
            trained += took
            self.now += took
            done = step + 1
            if done % self.log_every == 0 or done in (1, self.work.steps):
                pace.note(done, trained if self.timed else float("nan"))
                yield done, self.now, pace.left()
            for kind in ("evaluation", "sample", "save"):
                every = self.work.every.get(kind)
                if every is not None and (done == self.work.steps or (every and done % every == 0)):
                    self.now += self.costs.get(kind, 0.0)
                    if kind in self.announced:
                        timed = kind == "evaluation" and self.timed
                        pace.note(done, trained if timed else float("nan"), kind)
                        yield done, self.now, pace.left()
        yield self.work.steps, self.now, 0.0

    def errors(self, after=0.2, until=0.9):
        """Return the relative errors of the time left, from a share of the session on."""
        shown = list(self.play())
        end, length = shown[-1][1], self.work.steps - self.start
        return [
            (left - (end - now)) / (end - now)
            for step, now, left in shown
            if math.isfinite(left) and after <= (step - self.start) / length <= until
        ]


USUAL = Workload(1000, {"evaluation": 100, "sample": 100, "save": 50})
OFTEN = Workload(1000, {"evaluation": 25, "sample": 25, "save": 25})
COSTS = {"evaluation": 6.0, "sample": 2.0, "save": 1.5}
noise = random.Random(0)

RUNS = {
    "steps alone": Played(Workload(1000)),
    "a slow compile": Played(Workload(1000), first=120.0),
    "a compile, few lines": Played(Workload(100), first=60.0, log_every=10),
    "compiling again at step 2": Played(Workload(500), seconds=lambda step: 30.0 if step < 2 else 0.1),
    "evaluations, samples, saves": Played(USUAL, costs=COSTS),
    "the same, compiled": Played(USUAL, costs=COSTS, first=90.0),
    "saves that nobody announces": Played(USUAL, costs=COSTS | {"save": 0.5}, announced=("evaluation", "sample")),
    "evaluations longer than training": Played(USUAL, costs={"evaluation": 40.0}),
    "evaluations between lines": Played(
        Workload(1000, {"evaluation": 75}), costs={"evaluation": 5.0}, log_every=20
    ),
    "at the end only": Played(Workload(1000, {"evaluation": 0, "sample": 0}, 512, (), 9000), costs={"evaluation": 0.6}),
    "rare evaluations, not seen yet": Played(
        Workload(1000, {"evaluation": 250}, 512, (), 60_000), costs={"evaluation": 60_000 / 512 * 0.1 / 3}
    ),
    "half the speed from 10 % on": Played(Workload(1000), seconds=lambda step: 0.1 if step < 100 else 0.2),
    "twice the speed from 10 % on": Played(Workload(1000), seconds=lambda step: 0.1 if step < 100 else 0.05),
    "a slow drift": Played(Workload(1000), seconds=lambda step: 0.1 + step * 1e-5),
    "noise": Played(USUAL, seconds=lambda step: 0.1 * noise.lognormvariate(0, 0.5), costs=COSTS),
    "stalls": Played(USUAL, seconds=lambda step: 0.1 + (step % 40 == 7) * 1.0, costs=COSTS),
    "resumed": Played(OFTEN, costs=COSTS, first=30.0, start=600, trained=4000.0),
    "resumed near the end": Played(OFTEN, costs=COSTS, start=850, trained=4000.0),
    "a batch ramp": Played(
        Workload(1000, {"evaluation": 100}, 64, tuple(8 + 56 * s // 600 for s in range(600))),
        seconds=lambda step: 0.002 * (64 if step >= 600 else 8 + 56 * step // 600),
        costs={"evaluation": 3.0},
    ),
    "lines without train_seconds": Played(Workload(1000), first=60.0, timed=False),
    "five steps": Played(Workload(5), log_every=1, first=3.0),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_after_a_fifth_of_the_run_the_time_left_is_right(name):
    errors = RUNS[name].errors()
    assert errors
    assert max(map(abs, errors)) < 0.15, [f"{error:+.0%}" for error in errors]


def test_nothing_is_claimed_before_there_is_something_to_go_by():
    now = [0.0]
    pace = Pace(Workload(100), 0, lambda: now[0])
    assert math.isnan(pace.left())
    now[0] = 60.0
    pace.note(1, 60.0)  # it compiled
    assert math.isnan(pace.left())
    now[0] = 69.0
    pace.note(10, 69.0)
    assert pace.left() == pytest.approx(90.0)


def test_it_is_never_negative_and_counts_down_between_lines():
    now = [0.0]
    pace = Pace(Workload(100), 0, lambda: now[0])
    for step in (10, 20, 30):
        now[0] += 1.0
        pace.note(step, now[0])
    assert pace.left() == pytest.approx(7.0)
    now[0] += 3.0
    assert pace.left() == pytest.approx(4.0)
    now[0] += 60.0  # the machine was asleep
    assert pace.left() == 0.0
    pace.note(100, now[0])
    assert pace.left() == 0.0


def test_it_does_not_flicker():
    shown = list(Played(USUAL, seconds=lambda step: 0.1 + 0.05 * (step // 10 % 2), costs=COSTS).play())
    ends = [now + left for step, now, left in shown if 300 <= step < 1000]
    assert max(ends) - min(ends) < 0.05 * (shown[-1][1] - 5000)


def test_an_evaluation_under_way_is_not_counted_twice():
    now = [0.0]
    pace = Pace(Workload(100, {"evaluation": 20}), 0, lambda: now[0])
    for step in (10, 20):
        now[0] += 1.0
        pace.note(step, now[0])
    now[0] += 4.0
    pace.note(20, 2.0, "evaluation")
    assert pace.left() == pytest.approx(8.0 + 4 * 4.0)  # at 40, 60, 80 and the end
    assert Workload(100, {"evaluation": 20}).to_come("evaluation", 40, False) == 4
    assert Workload(100, {"evaluation": 20}).to_come("evaluation", 100, False) == 1
    assert Workload(100, {"evaluation": 0}).to_come("evaluation", 40, False) == 1
    assert Workload(100).to_come("evaluation", 40, False) == 0
