"""Which rows a step learns from: every row once an epoch, whatever ramps, left-out batches and continuations do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gptwright as gw
from gptwright.train.plan import Plan

from .. import tiny


def plan_of(**train) -> Plan:
    train = {"tokens_per_step": 64, **train}
    return Plan(
        gw.RunConfig.from_dict(tiny.settings("book.txt", {f"train.{key}": value for key, value in train.items()}))
    )


def rows_of(plan: Plan, steps) -> list[int]:
    return [row for step in steps for row in range(*_span(plan.portion(step)))]


def _span(portion) -> tuple[int, int]:
    return portion.first, portion.first + portion.rows


def test_without_ramps_steps_take_equal_rows_one_after_another():
    assert [plan_of().portion(step) for step in (0, 1, 7)] == [(0, 4, 16), (4, 4, 16), (28, 4, 16)]


def test_a_batch_ramp_grows_evenly_and_leaves_no_row_out():
    plan = plan_of(tokens_per_step=160, batch_ramp={"start": 32, "steps": 4})
    assert [plan.portion(step).rows for step in range(6)] == [2, 4, 6, 8, 10, 10]
    assert rows_of(plan, range(6)) == list(range(40))


def test_a_length_ramp_doubles_in_equal_parts_and_takes_the_same_rows():
    plan = plan_of(length_ramp={"start": 2, "steps": 9})
    assert [plan.portion(step).length for step in range(11)] == [2, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16]
    assert rows_of(plan, range(11)) == list(range(44))


@given(st.integers(1, 12), st.integers(1, 10), st.integers(0, 30), st.lists(st.integers(0, 25), max_size=3))
def test_left_out_batches_move_what_follows_and_nothing_else(start, ramp, at, bad):
    """Also when the plan is saved and restored at any step."""
    plan = plan_of(tokens_per_step=192, batch_ramp={"start": 16 * start, "steps": ramp})
    left_out = []
    for step in sorted(bad):
        portion = plan.portion(step)
        left_out += range(*_span(portion))
        plan.leave_out(portion)
    taken = rows_of(plan, range(32))
    assert taken == [row for row in range(taken[-1] + 1) if row not in left_out]
    again = plan_of(tokens_per_step=192, batch_ramp={"start": 16 * start, "steps": ramp})
    again.restore(plan.state(at), at)
    assert rows_of(again, range(at, 32)) == rows_of(plan, range(at, 32))


def test_a_run_that_goes_on_with_other_sizes_takes_the_next_row():
    before, after = plan_of(), plan_of(tokens_per_step=32)
    after.restore(before.state(5), 5)
    assert rows_of(before, range(5)) + rows_of(after, range(5, 8)) == list(range(26))


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"batch_ramp": {"start": 20, "steps": 5}}, "start 20 must be a multiple of model.max_seq_len 16; 16 is the"),
        ({"batch_ramp": {"start": 128, "steps": 5}}, "start 128 must be at most train.tokens_per_step 64"),
        (
            {"length_ramp": {"start": 5, "steps": 5}},
            "start 5 must divide model.max_seq_len 16, .* evenly; 4 does",
        ),
        (
            {"micro_batch": 3},
            "micro_batch 3 must divide the 4 sequences of a step .*; 2 does",
        ),
    ],
)
def test_what_does_not_come_out_even_is_refused(train, words):
    with pytest.raises(gw.ConfigError, match=words):
        plan_of(**train)
