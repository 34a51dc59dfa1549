"""The loss curve in a terminal, in braille dots: two columns and four rows of dots a character."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gptwright.train.report.axis import Axis, span
from gptwright.train.report.chart import smooth
from gptwright.train.report.lines import columns
from gptwright.train.report.words import compact

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""The bit of each dot in a braille character (Unicode chapter 21.1)."""


def loss_curve_text(metrics: Iterable[Mapping[str, Any]], width: int = 72, height: int = 12) -> str:
    """Return a plot of training loss (dots) and validation loss (`o`) by step, without control codes.

    ``metrics`` are the objects of `metrics.jsonl`; ``width`` and ``height`` are in characters, all
    included. Empty when there is no finite loss.
    """
    rows = list(metrics)
    train, val = columns(rows, "loss"), columns(rows, "val_loss")
    loss, val_loss = smooth(train.get("loss", np.empty(0))), val.get("val_loss", np.empty(0))
    both = np.concatenate([loss, val_loss])
    if not np.isfinite(both).any():
        return ""
    steps = np.concatenate([train.get("step", np.empty(0)), val.get("step", np.empty(0))])
    y, x = Axis(*span(both, pad=0.02)), _x_axis(steps[np.isfinite(both)])
    legend = "training loss" + (", o validation" if np.isfinite(val_loss).any() else "")
    return curve_text(
        (train.get("step", np.empty(0)), loss),
        (val.get("step", np.empty(0)), val_loss),
        (x, y),
        width=width,
        height=height,
        ends=(compact(x.lo), f"step {compact(x.hi)}"),
        legend=legend,
    )


def curve_text(
    line: tuple[np.ndarray, np.ndarray],
    marks: tuple[np.ndarray, np.ndarray],
    axes: tuple[Axis, Axis],
    *,
    width: int,
    height: int,
    ends: tuple[str, str],
    legend: str,
) -> str:
    """Return a plot of a ``line`` in dots and ``marks`` as `o`, each (x, y), without control codes.

    ``ends`` are what is written below the ends of the x axis, ``legend`` between them where there is room.
    """
    x, y = axes
    margin = max(len(f"{end:.2f}") for end in (y.lo, y.hi)) + 2
    across, down = max(8, width - margin - 1), max(3, height - 2)
    canvas = _line(x.place(line[0]), y.place(line[1]), across, down)
    _mark(canvas, x.place(marks[0]), y.place(marks[1]))
    return "\n".join(_framed(canvas, y, margin, ends, legend))


def _x_axis(steps: np.ndarray) -> Axis:
    lo, hi = float(steps.min()), float(steps.max())
    return Axis(lo, hi if hi > lo else lo + 1)


def _line(across: np.ndarray, up: np.ndarray, width: int, height: int) -> list[list[str]]:
    """Return rows of braille characters with a line through the points."""
    bits = np.zeros((height, width), dtype=int)
    finite = np.isfinite(across) & np.isfinite(up)
    if finite.any():
        fine = np.linspace(0, 1, 2 * width) if finite.sum() > 1 else across[finite]
        inside = fine[(fine >= across[finite].min()) & (fine <= across[finite].max())]
        heights = np.interp(inside, across[finite], up[finite])
        rows = np.clip(np.rint((1 - heights) * (4 * height - 1)).astype(int), 0, 4 * height - 1)
        dots = np.rint(inside * (2 * width - 1)).astype(int)
        for n, (row, dot) in enumerate(zip(rows, dots, strict=True)):
            before = rows[n - 1] if n else row  # a steep fall is joined up, not a scatter of dots
            for joined in range(min(before, row), max(before, row) + 1):
                bits[joined // 4, dot // 2] |= _DOTS[joined % 4, dot % 2]
    return [[chr(0x2800 + cell) if cell else " " for cell in row] for row in bits]


def _mark(canvas: list[list[str]], across: np.ndarray, up: np.ndarray) -> None:
    height, width = len(canvas), len(canvas[0])
    for a, u in zip(across, up, strict=True):
        if np.isfinite(a) and np.isfinite(u):
            row = round(float(np.clip(1 - u, 0, 1)) * (height - 1))
            canvas[row][round(float(np.clip(a, 0, 1)) * (width - 1))] = "o"


def _framed(canvas: list[list[str]], y: Axis, margin: int, ends: tuple[str, str], legend: str) -> list[str]:
    height, width = len(canvas), len(canvas[0])
    labels = {0: y.hi, height // 2: y.hi + (y.lo - y.hi) * (height // 2) / (height - 1), height - 1: y.lo}
    lines = []
    for n, row in enumerate(canvas):
        label = f"{labels[n]:.2f} ┤" if n in labels else "│"
        lines.append(f"{label:>{margin}}{''.join(row)}".rstrip())
    lines.append(f"{'└':>{margin}}{'─' * width}")
    first, last = ends
    middle = legend if len(legend) + len(first) + len(last) + 4 <= width else ""
    lines.append(" " * margin + first + middle.center(width - len(first) - len(last)) + last)
    return lines
