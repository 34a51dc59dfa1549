"""The charts of a page: which curves each has, over which axes, and the numbers behind its cross-hair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from gptwright.train.report.axis import Axis, span
from gptwright.train.report.chart import Series, draw, smooth
from gptwright.train.report.figures import describe
from gptwright.train.report.lines import Columns
from gptwright.train.report.panels import Curve, Kind, kinds
from gptwright.train.report.read import Run

AXES = {"step": ("Steps", "count"), "tokens": ("Tokens", "count"), "train_seconds": ("Time", "seconds")}
"""Columns that an x axis can show, each with its name and its unit."""
SMALL_BINS = 200
"""About how many pixels wide a small chart is."""
MAX_HOVER_POINTS = 300


@dataclass(frozen=True)
class View:
    """One drawing of a chart; the page shows the one whose axis is chosen."""

    classes: str
    svg: Markup


@dataclass(frozen=True)
class Panel:
    """A chart with its heading and one view for each choice of axis."""

    name: str
    title: str
    hint: str
    views: list[View]
    legend: list[tuple[str, str]]
    """Class and label of each curve, where there are several."""


def usable_axes(run: Run) -> list[str]:
    """Return the columns that can be an x axis: those that move, steps always."""

    def moves(name: str) -> bool:
        values = np.concatenate([part.get(name, np.empty(0)) for part in (run.train, run.val)])
        return np.unique(values[np.isfinite(values)]).size > 1

    return [name for name in AXES if name == "step" or moves(name)]


def loss_panel(run: Run) -> Panel | None:
    """Return the large chart: training loss thin and smoothed, validation loss with dots."""
    parts = [(run.train, "loss"), (run.val, "val_loss")]
    if not any(np.isfinite(part.get(name, np.empty(0))).any() for part, name in parts):
        return None
    words = {"loss": "Training loss", "val_loss": "Validation loss"}
    text = " ".join(describe(words[name], part["step"], part[name]) for part, name in parts if name in part)
    views = []
    for x_name in usable_axes(run):
        curves = []
        if "loss" in run.train:
            curves += [_series("loss", run.train, x_name, style, "training loss") for style in ("raw", "line")]
        if "val_loss" in run.val:
            curves.append(_series("val_loss", run.val, x_name, "marks", "validation loss", "val"))
        views += [_view("Loss", text, curves, x_name, "lin"), _view("Loss", text, curves, x_name, "log")]
    return Panel("loss", "Loss", "nats per token", views, [])


def small_panels(run: Run) -> list[Panel]:
    """Return a small chart for each kind of figure that the run has logged."""
    return [_small_panel(run, kind) for kind in kinds(run)]


def hover_points(run: Run) -> dict[str, dict[str, list[float | None]]]:
    """Return the numbers that the cross-hair reads out: evenly spaced lines, six digits each."""
    points = {"train": dict(run.train), "val": dict(run.val)}
    wanted = {"train": [*AXES, "loss"], "val": [*AXES, "val_loss", "val_bits_per_byte"]}
    shown = [("loss", "train", 1.0, True)]
    shown += [(curve.column, kind.part, kind.unit, kind.smoothed) for kind in kinds(run) for curve in kind.curves]
    for name, part, unit, smoothed in shown:
        if name in points[part]:
            points[part][name] = points[part][name] / unit
            points[part][f"{name}_smooth"] = smooth(points[part][name]) if smoothed else points[part][name]
            wanted[part] += [name, f"{name}_smooth"]
    return {part: _plain(columns, wanted[part]) for part, columns in points.items()}


def hover_rows(columns: Columns, names: Sequence[str], smoothed: Sequence[str] = ()) -> dict[str, list[float | None]]:
    """Return some of ``columns`` for the cross-hair, those ``smoothed`` also as they are drawn."""
    more = {f"{name}_smooth": smooth(columns[name]) for name in smoothed if name in columns}
    return _plain({**columns, **more}, [*names, *more])


def chart_axes(curves: Sequence[Series], x_name: str, *, log: bool, zero: bool) -> tuple[Axis, Axis]:
    """Return the x and y axis that hold all ``curves``."""
    x = np.concatenate([np.empty(0), *(curve.x for curve in curves)])
    y = np.concatenate([np.empty(0), *(curve.y for curve in curves)])
    x, y = (values[np.isfinite(values) & ((values > 0) | (not log))] for values in (x, y))
    lo, hi = (float(x.min()), float(x.max())) if x.size else (1.0, 2.0)
    lo, hi = (lo, hi) if hi > lo else (lo * 0.9, lo * 1.1 or 1.0)
    unit = AXES[x_name][1]
    if log:
        bottom, top = span(np.log(y))
        return Axis(lo, hi, True, unit), Axis(float(np.exp(bottom)), float(np.exp(top)), True)
    from_zero = 0.0 if 0 < lo < 0.3 * hi else lo
    return Axis(from_zero, hi, unit=unit), Axis(*span(y, zero=zero), unit="count")


def few(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most ``most`` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[n] for n in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _small_panel(run: Run, kind: Kind) -> Panel:
    columns = kind.columns(run)
    there = [curve for curve in kind.curves if np.isfinite(columns.get(curve.column, np.empty(0))).any()]
    text = " ".join(describe(curve.label.capitalize(), columns["step"], columns[curve.column]) for curve in there)
    views = []
    for x_name in usable_axes(run):
        pairs = [(curve, style) for curve in there for style in _styles(kind, there)]
        curves = [_small_series(kind, curve, columns, x_name, style) for curve, style in pairs]
        views.append(_view(kind.title, text, curves, x_name, "", zero=kind.zero, ticks=5, bins=SMALL_BINS))
    legend = [(curve.colour, curve.label) for curve in there] if len(kind.curves) > 1 else []
    return Panel(kind.name, kind.title, kind.hint, views, legend)


def _styles(kind: Kind, curves: list[Curve]) -> list[str]:
    if kind.part == "val":
        return ["marks"]
    return ["raw", "line"] if kind.smoothed and len(curves) == 1 else ["line"]


def _small_series(kind: Kind, curve: Curve, columns: Columns, x_name: str, style: str) -> Series:
    raw = style != "line" or not kind.smoothed
    series = _series(curve.column, columns, x_name, "raw" if raw else "line")
    return Series(series.name, series.x, series.y / kind.unit, style, curve.colour, curve.label, kind.part)


def _series(name: str, part: Columns, x_name: str, style: str, label: str = "", rows: str = "train") -> Series:
    x = part.get(x_name, np.full(part["step"].size, np.nan))
    order = np.argsort(x, kind="stable")  # a resumed run's clock may have been set back
    y = smooth(part[name]) if style == "line" else part[name]
    return Series(name, x[order], y[order], style, "", label, rows)


def _view(title: str, text: str, curves: list[Series], x_name: str, scale: str = "", **more: Any) -> View:
    """Draw one choice of axis; ``scale`` is `lin` or `log` where the chart has both, ``more`` says the rest."""
    axes = chart_axes(curves, x_name, log=scale == "log", zero=more.pop("zero", False))
    heading = f"{title} by {AXES[x_name][0].lower()}"
    svg = draw(heading, text, curves, axes, x_name=x_name, **more)
    first = " first" if x_name == "step" and scale != "log" else ""
    return View(f"view by-{x_name} {scale}{first}", svg)


def _plain(part: Columns, names: Sequence[str]) -> dict[str, list[float | None]]:
    count = part["step"].size if "step" in part else 0
    kept = few(range(count), MAX_HOVER_POINTS)
    return {name: [_digits(float(part[name][n])) for n in kept] for name in names if name in part}


def _digits(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
