"""Parts that cannot work together refuse each other, exactly those, and say why."""

import itertools

import pytest

import gptwright as gw
from gptwright.check.models import BASE

from . import parts
from .refused import REFUSED, clashes, refused

ALL = {**parts.axes(), **{kind: parts.examples(kind) for kind in ("feed_forward", "norm", "position")}}


def two(axes: dict[str, list]) -> list[dict]:
    """Return every pair of choices of two axes."""
    both = itertools.combinations(axes.items(), 2)
    return [{a: one, b: other} for (a, ones), (b, others) in both for one, other in itertools.product(ones, others)]


PAIRS = two(ALL)


def refusal(row: dict) -> str | None:
    """Return why the settings of a row are refused."""
    try:
        gw.ModelConfig.from_dict({**BASE, **parts.model_settings(row)})
    except gw.ConfigError as error:
        return str(error)
    return None


def test_exactly_the_pairs_listed_are_refused():
    found = [(row, refusal(row)) for row in PAIRS]
    assert {parts.label(row): why for row, why in found if why and not refused(row)} == {}
    assert {parts.label(row) for row, why in found if not why and refused(row)} == set()
    known = set().union(*(clashes(row) for row in PAIRS))
    assert known >= REFUSED, "a pair of the list has no such parts"


@pytest.mark.parametrize("row", parts.as_params(row for row in PAIRS if refused(row)))
def test_a_refusal_names_both_parts_and_a_way_out(row):
    why = refusal(row)
    (pair,) = clashes(row) & REFUSED
    assert all(name in why for _, name in pair)
    assert "; " in why


def test_combinations_that_are_run_are_not_refused():
    assert {parts.label(row): why for row in parts.pairs() if (why := refusal(row))} == {}


def test_rows_hold_every_pair_that_is_not_refused():
    rows = parts.pairwise(parts.axes())
    held = {parts.label({a: row[a], b: row[b]}) for row in rows for a, b in itertools.combinations(row, 2)}
    assert held == {parts.label(pair) for pair in two(parts.axes()) if not refused(pair)}


def test_every_example_is_in_a_row():
    rows = [parts.label(row[kind]) for row in parts.pairs() for kind in parts.SLOTS]
    assert {parts.label(settings) for _, settings in parts.every_component()} <= set(rows)
