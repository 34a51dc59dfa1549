"""Write a run's `report.html`: one file that needs no network, no script and no font to be read."""

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gptwright import __version__
from gptwright.errors import GptwrightError
from gptwright.train.report.axis import Axis, span
from gptwright.train.report.chart import Series, draw, smooth
from gptwright.train.report.figures import commands, describe, headline, key_figures, notes, status
from gptwright.train.report.read import Columns, Run, Sample, read_run
from gptwright.train.report.words import clock, compact, fixed

HERE = Path(__file__).parent
AXES = {"step": ("Steps", "count"), "tokens": ("Tokens", "count"), "train_seconds": ("Time", "seconds")}
SMALL_CHARTS = {
    "lr": ("Learning rate", "of the schedule"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "tokens_per_second": ("Tokens per second", "while training"),
}
MAX_SAMPLES, MAX_SAMPLE_LENGTH, MAX_HOVER_POINTS, MAX_TABLE_ROWS = 60, 4000, 500, 40
_YAML_KEY = re.compile(r"^(\s*(?:- )*)([\w.\-]+)(:)(?=\s|$)", re.MULTILINE)


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


def write_report(run_folder: Path, *, title: str | None = None) -> Path:
    """Write ``run_folder/report.html`` from what the folder holds, and return its path.

    Missing files, a torn last line and values that are not finite are left out, and said.

    Raises:
        CheckpointError: the folder does not exist or holds no run.
        GptwrightError: the page cannot be written.
    """
    run = read_run(Path(run_folder))
    page = render(run, title or run.folder.resolve().name)
    target = run.folder / "report.html"
    beside = target.with_name(f".report.{os.getpid()}.html")
    try:
        beside.write_text(page, "utf-8")
        beside.replace(target)  # a reader who reloads during a run never sees half a page
    except OSError as error:
        beside.unlink(missing_ok=True)
        reason = f"{error.strerror}; check its rights and the free space"
        raise GptwrightError(f"cannot write '{target}': {reason}") from None
    return target


def render(run: Run, title: str) -> str:
    """Return the page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (HERE / "script.js").read_text("utf-8")
    samples = few(run.samples, MAX_SAMPLES)
    return environment.get_template("template.html.j2").render(
        title=title,
        status=status(run),
        headline=headline(run),
        figures=key_figures(run),
        axes=[(name, AXES[name][0]) for name in usable_axes(run)],
        loss=loss_panel(run),
        panels=small_panels(run),
        points=hover_points(run),
        evaluations=evaluation_rows(run.val),
        samples=[(sample_heading(sample), clip(sample.text)) for sample in samples],
        settings=coloured_yaml(run.config_text),
        commands=commands(run),
        notes=notes(run),
        style=Markup((HERE / "style.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


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
            curves += [_series("loss", run.train, x_name, "raw"), _series("loss", run.train, x_name, "line")]
        if "val_loss" in run.val:
            curves.append(_series("val_loss", run.val, x_name, "marks"))
        views += [_view("Loss", text, curves, x_name, "lin"), _view("Loss", text, curves, x_name, "log")]
    return Panel("loss", "Loss", "nats per token", views)


def small_panels(run: Run) -> list[Panel]:
    """Return learning rate, gradient norm and throughput, as far as the run logged them."""
    panels = []
    for name, (title, hint) in SMALL_CHARTS.items():
        if not np.isfinite(run.train.get(name, np.empty(0))).any():
            continue
        text = describe(title, run.train["step"], run.train[name])
        views = []
        for x_name in usable_axes(run):
            styles = ["line"] if name == "lr" else ["raw", "line"]
            curves = [_series(name, run.train, x_name, style) for style in styles]
            views.append(_view(title, text, curves, x_name, "", zero=True, ticks=5, bins=400))
        panels.append(Panel(name, title, hint, views))
    return panels


def hover_points(run: Run) -> dict[str, dict[str, list[float | None]]]:
    """Return the numbers that the cross-hair reads out: evenly spaced lines, six digits each."""
    train = dict(run.train)
    for name in ("loss", *SMALL_CHARTS):
        if name in train:
            train[f"{name}_smooth"] = train[name] if name == "lr" else smooth(train[name])
    wanted = [*AXES, *(f"{n}{s}" for n in ("loss", *SMALL_CHARTS) for s in ("", "_smooth"))]
    return {"train": _plain(train, wanted), "val": _plain(run.val, [*AXES, "val_loss", "val_bits_per_byte"])}


def evaluation_rows(val: Columns) -> list[list[str]]:
    """Return the table of evaluations: step, tokens, time, loss, bits per byte."""
    count = val["step"].size if "step" in val else 0
    nothing = np.full(count, np.nan)
    writers = {"step": lambda v: f"{int(v):,}", "tokens": compact, "train_seconds": clock}
    names = [*AXES, "val_loss", "val_bits_per_byte"]
    return [
        [writers.get(name, fixed)(float(val.get(name, nothing)[n])) for name in names]
        for n in few(range(count), MAX_TABLE_ROWS)
    ]


def sample_heading(sample: Sample) -> str:
    """Return when a sample was written."""
    tokens = f", after {compact(sample.tokens)} tokens" if sample.tokens is not None else ""
    return f"step {sample.step:,}{tokens}"


def clip(text: str) -> str:
    """Return ``text`` cut to a length that keeps the page small."""
    return text if len(text) <= MAX_SAMPLE_LENGTH else text[:MAX_SAMPLE_LENGTH] + " […]"


def few(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most ``most`` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[n] for n in np.linspace(0, len(items) - 1, most).round().astype(int)]


def coloured_yaml(text: str) -> Markup:
    """Return settings as escaped HTML with each key marked."""
    return Markup(_YAML_KEY.sub(r'\1<span class="key">\2</span>\3', str(escape(text))))


def _series(name: str, part: Columns, x_name: str, style: str) -> Series:
    x = part.get(x_name, np.full(part["step"].size, np.nan))
    order = np.argsort(x, kind="stable")  # a resumed run's clock may have been set back
    y = smooth(part[name]) if style == "line" and name != "lr" else part[name]
    return Series(name, x[order], y[order], style)


def _view(title: str, text: str, curves: list[Series], x_name: str, scale: str = "", **more: Any) -> View:
    """Draw one choice of axis; ``scale`` is `lin` or `log` where the chart has both, ``more`` says the rest."""
    axes = _axes(curves, x_name, log=scale == "log", zero=more.pop("zero", False))
    heading = f"{title} by {AXES[x_name][0].lower()}"
    svg = draw(heading, text, curves, axes, x_name=x_name, **more)
    first = " first" if x_name == "step" and scale != "log" else ""
    return View(f"view by-{x_name} {scale}{first}", svg)


def _axes(curves: list[Series], x_name: str, *, log: bool, zero: bool) -> tuple[Axis, Axis]:
    x = np.concatenate([curve.x for curve in curves])
    y = np.concatenate([curve.y for curve in curves])
    x, y = (values[np.isfinite(values) & ((values > 0) | (not log))] for values in (x, y))
    lo, hi = (float(x.min()), float(x.max())) if x.size else (1.0, 2.0)
    lo, hi = (lo, hi) if hi > lo else (lo * 0.9, lo * 1.1 or 1.0)
    unit = AXES[x_name][1]
    if log:
        bottom, top = span(np.log(y))
        return Axis(lo, hi, True, unit), Axis(float(np.exp(bottom)), float(np.exp(top)), True)
    from_zero = 0.0 if 0 < lo < 0.3 * hi else lo
    return Axis(from_zero, hi, unit=unit), Axis(*span(y, zero=zero), unit="count")


def _plain(part: Columns, names: Sequence[str]) -> dict[str, list[float | None]]:
    count = part["step"].size if "step" in part else 0
    kept = few(range(count), MAX_HOVER_POINTS)
    return {name: [_digits(float(part[name][n])) for n in kept] for name in names if name in part}


def _digits(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
