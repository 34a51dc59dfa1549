"""Numbers as people read them: `1.23M`, `2 min 05 s`, `1.8734`."""

import math
from typing import Any

_SUFFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def compact(value: float, digits: int = 3) -> str:
    """Return a count in at most ``digits`` significant digits with k, M, B, T or P."""
    if not math.isfinite(value):
        return "–"
    for size, suffix in _SUFFIXES:
        if abs(value) >= size * (1 - 0.5 * 10**-digits):  # 999,999 is 1M and not 1000k
            return f"{_significant(value / size, digits)}{suffix}"
    return _significant(value, digits)


def clock(seconds: float) -> str:
    """Return a duration given in seconds as two units at most: `8.4 s`, `2 min 05 s`, `3 h 07 min`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def fixed(value: float, decimals: int = 4) -> str:
    """Return ``value`` with that many decimals, or a dash where it is not a number."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else "–"


def short(value: float) -> str:
    """Return ``value`` in four significant digits without padding: `0.001`, `2e-5`, `1.873`."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _significant(value: float, digits: int) -> str:
    decimals = max(0, digits - len(str(int(abs(value)))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def number(value: Any) -> float:
    """Return ``value`` as a number, NaN where it is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
