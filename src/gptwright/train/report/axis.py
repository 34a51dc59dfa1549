"""Axes: where a value lies between the two ends, and which round values to write beside it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gptwright.train.report.words import compact, short


@dataclass(frozen=True)
class Axis:
    """An interval of values, laid out evenly or by their logarithm."""

    lo: float
    hi: float
    log: bool = False
    unit: str = "number"
    """`number`, `count` (k, M, B) or `seconds` (s, min, h)."""

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """Return the fraction 0..1 of the way along; NaN where there is no such place."""
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.asarray(values, dtype=float)
            if self.log:
                logs = np.where(values > 0, np.log(values), np.nan)
                return (logs - math.log(self.lo)) / (math.log(self.hi) - math.log(self.lo))
            return (values - self.lo) / (self.hi - self.lo)

    def ticks(self, wanted: int = 6) -> list[tuple[float, str]]:
        """Return about ``wanted`` round values within the axis, each with its label."""
        if self.unit == "seconds":
            size, name = _time_unit(self.hi)
            scaled = Axis(self.lo / size, self.hi / size, self.log)
            return [(at * size, f"{label} {name}") for at, label in scaled.ticks(wanted)]
        at = _log_ticks(self.lo, self.hi, wanted) if self.log else nice_ticks(self.lo, self.hi, wanted)
        small = self.log and at and 0 < at[0] < 1e-3
        label = compact if self.unit == "count" and self.hi >= 10_000 else short if small else _plain_label(at)
        return [(value, label(value)) for value in at]


def nice_ticks(lo: float, hi: float, wanted: int = 6) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten from ``lo`` to ``hi``, about ``wanted``."""
    if not hi > lo:
        return [lo]
    rough = (hi - lo) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 2.5, 5, 10), key=lambda factor: abs(math.log(power * factor / rough)))
    first, last = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def span(values: np.ndarray, *, pad: float = 0.05, zero: bool = False) -> tuple[float, float]:
    """Return the ends of an axis that shows ``values``; a few far peaks may run out of its top."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    lo, hi = float(finite.min()), float(finite.max())
    usual = lo + 1.3 * (float(np.quantile(finite, 0.99)) - lo)
    if finite.size > 50 and hi - lo > 6 * (usual - lo) > 0:
        hi = usual
    if zero:
        lo = min(lo, 0.0)
    if hi <= lo:
        lo, hi = lo - (abs(lo) * 0.1 or 0.5), hi + (abs(hi) * 0.1 or 0.5)
    room = (hi - lo) * pad
    return (lo if zero and lo == 0 else lo - room), hi + room


def _log_ticks(lo: float, hi: float, wanted: int) -> list[float]:
    decades = range(math.floor(math.log10(lo)), math.ceil(math.log10(hi)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**d for d in decades for f in factors if lo <= f * 10.0**d <= hi]
        if len(found) <= wanted + 1:
            break
    else:
        found = found[:: math.ceil(len(found) / wanted)]
    return found if len(found) > 2 else nice_ticks(lo, hi, wanted)


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 150:
        return 1.0, "s"
    if seconds < 150 * 60:
        return 60.0, "min"
    return 3600.0, "h"


def _plain_label(ticks: list[float]) -> Callable[[float], str]:
    """Return a writer that gives all ticks the same number of decimals."""
    largest = max((abs(at) for at in ticks), default=0.0)
    if largest >= 1e5 or 0 < largest < 1e-3:
        return short
    decimals = max((len(f"{at:.6g}".partition(".")[2]) for at in ticks), default=0)
    return lambda value: f"{value:,.{decimals}f}"
