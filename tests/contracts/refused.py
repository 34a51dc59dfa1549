"""The pairs of parts that refuse each other, by their mathematics: a golden list."""

import itertools
from typing import Any

REFUSED = {
    frozenset({("attention", "linear"), ("position", "alibi")}),
    frozenset({("attention", "gated_delta"), ("position", "alibi")}),
    frozenset({("attention", "Minimal"), ("position", "alibi")}),
    frozenset({("attention", "MyAttention"), ("position", "alibi")}),
    frozenset({("attention", "MyAttention"), ("extras", "value_residual")}),
    frozenset({("attention", "latent"), ("extras", "value_residual")}),
    frozenset({("attention", "Minimal"), ("extras", "value_residual")}),
}
"""Each pair as ``(axis, name)`` of both; `test_refused.py` sees that these are all."""


def names(axis: str, choice: Any) -> set[tuple[str, str]]:
    """Return what a choice is called: its type, its name, or each of the settings that it holds."""
    if axis == "extras":
        return {(axis, key) for key in choice}
    name = choice["type"] if isinstance(choice, dict) else choice
    return {(axis, name.rpartition(":")[2])}


def refused(row: dict[str, Any]) -> bool:
    """Whether any two choices of a row, by axis, refuse each other."""
    return bool(clashes(row) & REFUSED)


def clashes(row: dict[str, Any]) -> set[frozenset[tuple[str, str]]]:
    """Return every pair of names of two axes in a row."""
    called = [names(axis, choice) for axis, choice in row.items()]
    return {frozenset(pair) for a, b in itertools.combinations(called, 2) for pair in itertools.product(a, b)}
