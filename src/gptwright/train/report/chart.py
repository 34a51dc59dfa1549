"""Line charts as inline SVG, written without a browser.

Places are percentages and the curves live in a stretched inner SVG: a chart fills whatever width it is
given, on a phone or on paper, while its text keeps the size of the page's text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from gptwright.train.report.axis import Axis

COLUMNS, ROWS = 1000, 400
"""The inner drawing's own units: one column is at least about a pixel wide on a large screen."""


@dataclass(frozen=True)
class Series:
    """One curve: ``style`` is `raw` (thin), `line` (bold) or `marks` (bold, a dot at every point)."""

    name: str
    """The column that it shows."""
    x: np.ndarray
    y: np.ndarray
    style: str = "line"
    colour: str = ""
    """Its class in the style sheet; default: the name."""
    label: str = ""
    """What a reader calls it; default: the name."""
    part: str = "train"
    """The rows that it comes from."""

    @property
    def classes(self) -> str:
        """Its classes in the style sheet."""
        return f"{self.style} {self.colour or self.name}"

    def told(self) -> list[str]:
        """Return what the page's script must know: column, rows, class, label."""
        return [self.name, self.part, self.colour or self.name, self.label or self.name]


def thin(x: np.ndarray, y: np.ndarray, bins: int) -> np.ndarray:
    """Return indices that draw the same picture: of each column the first, lowest, highest and last point.

    ``x`` are ascending fractions 0..1; points that are not finite are left out. At most ``4 * bins``.
    """
    kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if kept.size <= 2 * bins:
        return kept
    column = np.clip((x[kept] * bins).astype(int), 0, bins - 1)
    by_height = kept[np.lexsort((y[kept], column))]
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    ends = np.append(starts[1:], kept.size) - 1
    return np.unique(np.concatenate([kept[starts], kept[ends], by_height[starts], by_height[ends]]))


def few(x: np.ndarray, y: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of at most about ``most`` finite points, evenly spread: enough for a smooth curve."""
    kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if kept.size <= most:
        return kept
    return kept[np.unique(np.linspace(0, kept.size - 1, most).round().astype(int))]


def smooth(y: np.ndarray, share: float = 0.025) -> np.ndarray:
    """Return the moving average over ``share`` of the points; NaN stays NaN.

    The window is centred and shrinks towards the beginning, where a loss falls steeply; at the end, where
    it is flat, only its right half goes, so that the last value is an average and not one lucky batch.
    """
    finite = np.flatnonzero(np.isfinite(y))
    result = np.full(y.shape, np.nan)
    if not finite.size:
        return result
    sums = np.concatenate([[0.0], np.cumsum(y[finite])])
    at = np.arange(finite.size)
    half = np.minimum(at, round(finite.size * share / 2))
    first, end = at - half, np.minimum(at + half + 1, finite.size)
    result[finite] = (sums[end] - sums[first]) / (end - first)
    return result


def draw(
    title: str,
    text: str,
    series: Sequence[Series],
    axes: tuple[Axis, Axis],
    *,
    x_name: str,
    ticks: int = 7,
    bins: int = COLUMNS,
) -> Markup:
    """Return one ``<svg>``: grid, labels, curves and dots, a title and ``text`` for who cannot see it.

    ``axes`` are x and y, ``ticks`` how many labels x gets, ``bins`` about how many pixels wide it is.
    Its ``data-`` attributes tell the page's script how to turn a place into values and back.
    """
    x, y = axes
    logs = f"{'x' if x.log else ''}{'y' if y.log else ''}"
    parts = [
        f'<svg class="chart" overflow="visible" role="img" aria-label="{escape(title)}. {escape(text)}" '
        f'data-x="{escape(x_name)}" '
        f'data-log="{logs}" data-span="{x.lo:.8g} {x.hi:.8g} {y.lo:.8g} {y.hi:.8g}" '
        f'data-series="{escape(json.dumps([s.told() for s in series if s.style != "raw"]))}">',
        *(_grid_line(float(y.place(at)), label) for at, label in y.ticks(max(3, ticks - 2))),
        *(_x_tick(float(x.place(at)), label, n) for n, (at, label) in enumerate(x.ticks(ticks))),
        f'<svg class="curves" width="100%" height="100%" viewBox="0 0 {COLUMNS} {ROWS}" preserveAspectRatio="none">',
        *(f'<path class="{escape(s.classes)}" d="{path(s, x, y, bins)}"/>' for s in series),
        "</svg>",
        *(_dots(s, x, y) for s in series),
        "</svg>",
    ]
    return Markup("".join(parts))  # every piece above is a number, our own word, or escaped


def path(series: Series, x: Axis, y: Axis, bins: int = COLUMNS) -> str:
    """Return the path data of a curve; values that are not finite leave a gap."""
    across, up = x.place(series.x), y.place(series.y)
    kept = few(across, up, bins // 2) if series.style == "line" else thin(across, up, bins)
    gaps = np.cumsum(~np.isfinite(up))[kept]
    pen_up = np.diff(gaps, prepend=-1) != 0
    px = across[kept] * COLUMNS
    py = (1 - np.clip(up[kept], -1, 2)) * ROWS  # what runs out of the frame stays a small number
    pairs = zip(pen_up.tolist(), px.tolist(), py.tolist(), strict=True)
    return "".join(["%s%.1f %.1f" % ("M" if lifted else "L", a, b) for lifted, a, b in pairs])  # noqa: UP031 - fastest


def _dots(series: Series, x: Axis, y: Axis) -> str:
    across, up = x.place(series.x), y.place(series.y)
    shown = np.flatnonzero(np.isfinite(across) & (up >= 0) & (up <= 1))
    if series.style == "marks":
        shown = shown if shown.size <= 40 else shown[-1:]  # more would hide the line
    elif series.style == "raw" or shown.size > 1:
        return ""  # a line needs two points: a lone one is drawn as a dot
    head = f'<circle class="{escape(series.colour or series.name)}" r="{3 if shown.size > 1 else 5}" '
    return "".join(f'{head}cx="{100 * across[n]:.2f}%" cy="{100 - 100 * up[n]:.2f}%"/>' for n in shown)


def _grid_line(up: float, label: str) -> str:
    at = f"{100 - 100 * up:.2f}%"
    return (
        f'<line class="rule" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
        f'<text class="tick" x="0" y="{at}" dx="-9" dy="0.33em" text-anchor="end">{escape(label)}</text>'
    )


def _x_tick(across: float, label: str, number: int) -> str:
    odd = " odd" if number % 2 else ""  # a narrow page hides every other one
    at = f"{100 * across:.2f}%"
    return (
        f'<line class="rule down{odd}" x1="{at}" x2="{at}" y1="0" y2="100%"/>'
        f'<text class="tick{odd}" x="{at}" y="100%" dy="1.6em" text-anchor="middle">{escape(label)}</text>'
    )
