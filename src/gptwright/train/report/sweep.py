"""The picture of a learning-rate range test: a page, and a curve for the terminal."""

from pathlib import Path

import numpy as np
from markupsafe import Markup

from gptwright import __version__
from gptwright.data.place import write_file
from gptwright.errors import GptwrightError
from gptwright.train.find_lr import RangeTest
from gptwright.train.report.axis import Axis, span
from gptwright.train.report.chart import Series, draw
from gptwright.train.report.page import templates
from gptwright.train.report.terminal import curve_text
from gptwright.train.report.views import View, hover_rows
from gptwright.train.report.words import short

TOP = 1.3
"""The picture ends at so many times the untrained loss: a loss that diverges would flatten the rest."""


def write_sweep(test: RangeTest, target: Path, title: str) -> Path:
    """Write the page of a range test and return its path.

    Raises:
        GptwrightError: it cannot be written.
    """
    marks = _marks(test)
    template, style, script, digest = templates("plot.html.j2")
    rows = {"step": np.arange(1.0, len(test.lr) + 1), "lr": np.array(test.lr), "loss": np.array(test.loss)}
    legend = [("k5", "training loss", "as measured, and averaged")]
    legend += [(colour, name, short(at)) for name, at, colour in marks]
    page = template.render(
        title=f"Learning rates of {title}",
        kind=f"learning-rate range test of {title}",
        heading="Loss by learning rate",
        hint=test.sentence(),
        axes=[("step", "Learning rate")],
        chosen="step",
        log=False,
        can_log=False,
        views=[View("view by-step lin first", _drawn(test, marks))],
        legend=legend,
        points={"train0": hover_rows(rows, list(rows))},
        style=style,
        script=script,
        script_hash=digest,
        version=__version__,
    )
    try:
        write_file(target, page.encode(), lasting=False)
    except OSError as error:
        raise GptwrightError(f"cannot write '{target}': {error.strerror}; name another with --out") from None
    return target


def sweep_text(test: RangeTest, width: int = 72, height: int = 12) -> str:
    """Return the smoothed curve for a terminal, `o` at the learning rate to try."""
    lr, curve = np.array(test.lr), test.smoothed
    at = _marks(test)[:1]
    x, y = _axes(test)
    marks = (np.array([each[1] for each in at]), np.array([_height(test, each[1]) for each in at]))
    ends = (short(x.lo), f"lr {short(x.hi)}")
    legend = "loss" + (", o: to try" if at else "")
    line = (lr, np.minimum(curve, y.hi))
    return curve_text(line, marks, (x, y), width=width, height=height, ends=ends, legend=legend)


def _marks(test: RangeTest) -> list[tuple[str, float, str]]:
    """Return name, learning rate and colour of what is worth a dot, that to try first."""
    found = [
        ("to try", test.suggested, "k2"),
        ("steepest descent", test.steepest if test.steepest != test.suggested else None, "k0"),
        ("a tenth of where it turns", test.tenth, "k3"),
        ("the loss turns", test.turned, "k1"),
    ]
    inside = [(name, at, colour) for name, at, colour in found if at is not None]
    return [each for each in inside if test.lr[0] <= each[1] <= 1.05 * test.lr[-1]]


def _drawn(test: RangeTest, marks: list[tuple[str, float, str]]) -> Markup:
    lr, curve = np.array(test.lr), test.smoothed
    curves = [
        Series("loss", lr, np.array(test.loss), "raw", "k5", "loss", "train0"),
        Series("loss", lr, curve, "line", "k5", "loss", "train0"),
        *(Series(name, np.array([at]), np.array([_height(test, at)]), "marks", colour) for name, at, colour in marks),
    ]
    return draw("Loss by learning rate", test.sentence(), curves, _axes(test), x_name="lr")


def _axes(test: RangeTest) -> tuple[Axis, Axis]:
    curve = test.smoothed
    bottom, top = span(np.minimum(np.append(curve, test.start), TOP * test.start))
    return Axis(test.lr[0], max(test.lr[-1], 1.0001 * test.lr[0]), log=True), Axis(bottom, top)


def _height(test: RangeTest, at: float) -> float:
    return float(np.interp(np.log(at), np.log(test.lr), np.minimum(test.smoothed, TOP * test.start)))
