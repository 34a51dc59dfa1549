"""Several runs in one chart: which curves, on which axes, and what the legend says."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from gptwright.errors import GptwrightError
from gptwright.train.report.axis import Axis
from gptwright.train.report.chart import Series, smooth
from gptwright.train.report.lines import Columns
from gptwright.train.report.panels import COLOURS, colour
from gptwright.train.report.read import Run, read_run
from gptwright.train.report.views import AXES, chart_axes
from gptwright.train.report.words import compact, fixed, short

MOST_RUNS = 4 * COLOURS
"""Colours times dashes: further runs could not be told apart."""
LOSSES = ("loss", "val_loss")


@dataclass(frozen=True)
class Drawn:
    """One run of the chart."""

    run: Run
    name: str
    colour: str
    """Its classes in the style sheet."""
    number: int

    def rows(self, part: str) -> str:
        """Return the word under which the page's script finds rows of this run."""
        return f"{part}{self.number}"


@dataclass(frozen=True)
class Overlay:
    """Runs, and the metric that is compared; None is the two losses."""

    runs: tuple[Drawn, ...]
    metric: str | None = None

    @property
    def title(self) -> str:
        """The heading of the chart."""
        return self.metric or "Loss"

    def axes(self) -> list[str]:
        """Return the columns that can be the x axis: those in which some run has two places at least; steps always."""
        return [name for name in AXES if name == "step" or any(self._moves(each.run, name) for each in self.runs)]

    def curves(self, x_name: str) -> list[Series]:
        """Return all curves over the column ``x_name``."""
        return [series for each in self.runs for series in self._of(each, x_name)]

    def scales(self, x_name: str, *, log: bool) -> tuple[Axis, Axis]:
        """Return the two axes that hold all curves."""
        return chart_axes(self.curves(x_name), x_name, log=log, zero=False)

    def can_log(self, x_name: str) -> bool:
        """Whether there are points that a logarithm can show."""
        return any(bool(((s.x > 0) & (s.y > 0)).any()) for s in self.curves(x_name))

    def legend(self) -> list[tuple[str, str, str]]:
        """Return classes, name and result of each run."""
        return [(each.colour, each.name, self._result(each.run)) for each in self.runs]

    def hint(self) -> str:
        """Return what thin and bold curves mean."""
        if self.metric:
            return "thin: every line logged" if self._part(self.metric) == "train" else ""
        return "nats per token; thin: training, smoothed; with dots: validation"

    def _of(self, each: Drawn, x_name: str) -> list[Series]:
        if self.metric:
            styles = ("marks",) if self._part(self.metric) == "val" else ("raw", "line")
            return [s for style in styles for s in _series(each, self._part(self.metric), self.metric, x_name, style)]
        has_val = np.isfinite(each.run.val.get("val_loss", np.empty(0))).any()
        train = _series(each, "train", "loss", x_name, "line slim" if has_val else "line")
        return [*train, *_series(each, "val", "val_loss", x_name, "marks")]

    def _part(self, metric: str) -> str:
        return "train" if any(metric in each.run.train for each in self.runs) else "val"

    def _moves(self, run: Run, name: str) -> bool:
        values = np.concatenate([part.get(name, np.empty(0)) for part in (run.train, run.val)])
        return np.unique(values[np.isfinite(values)]).size > 1

    def _result(self, run: Run) -> str:
        name = self.metric or ("val_loss" if _finite(run.val, "val_loss").size else "loss")
        values = _finite(run.train if self.metric and self._part(name) == "train" else run.val, name)
        if not values.size:
            values = _finite(run.train, name)
        if not values.size:
            return "no values"
        last, best = float(values[-1]), float(values.min())
        if self.metric:
            return compact(last) if abs(last) >= 10_000 else short(last)
        what = "val" if name == "val_loss" else "train"
        return f"{what} {fixed(last)}" + (f", best {fixed(best)}" if best < last - 5e-5 else "")


def overlay(folders: Sequence[Path], metric: str | None = None) -> Overlay:
    """Read the runs and choose what is drawn.

    Raises:
        CheckpointError: a folder is not a run.
        GptwrightError: no run has logged ``metric``, or there are more runs than colours.
    """
    if len(folders) > MOST_RUNS:
        raise GptwrightError(
            f"{len(folders)} runs are too many for one chart, which can tell {MOST_RUNS} apart; name fewer"
        )
    runs = [read_run(Path(folder)) for folder in folders]
    drawn = tuple(Drawn(run, name, colour(n), n) for n, (run, name) in enumerate(zip(runs, _names(runs), strict=True)))
    wanted = [metric] if metric else list(LOSSES)
    if not any(_finite(part, name).size for run in runs for part in (run.train, run.val) for name in wanted):
        raise GptwrightError(_nothing(runs, metric))
    return Overlay(drawn, metric)


def _nothing(runs: Iterable[Run], metric: str | None) -> str:
    """Return the sentence that says why there is nothing to draw."""
    known = sorted({name for run in runs for part in (run.train, run.val) for name in part if _finite(part, name).size})
    if metric is None:
        return "there is nothing to draw: none of these runs has logged a loss yet"
    close = get_close_matches(metric, known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"none of these runs has logged '{metric}'{hint} (logged: {', '.join(known) or 'nothing'})"


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the shortest ends of the folders' paths that differ."""
    paths = [run.folder.resolve().parts for run in runs]
    for length in range(1, max(map(len, paths), default=1) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{parts[-1]} ({n + 1})" for n, parts in enumerate(paths)]  # the same run, named twice


def _series(each: Drawn, part: str, name: str, x_name: str, style: str) -> list[Series]:
    columns = each.run.train if part == "train" else each.run.val
    if name not in columns:
        return []
    x = columns.get(x_name, np.full(columns["step"].size, math.nan))
    order = np.argsort(x, kind="stable")
    y = smooth(columns[name]) if style.startswith("line") else columns[name]
    label = each.name + (", training" if name == "loss" else "")
    return [Series(name, x[order], y[order], style, each.colour, label, each.rows(part))]


def _finite(columns: Columns, name: str) -> np.ndarray:
    values = columns.get(name, np.empty(0))
    return values[np.isfinite(values)]
