"""Which rows of the data a step learns from: a pure function of the step, ramps and left-out batches included."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from gptwright.train.config import BatchRamp, LengthRamp, RunConfig


class Portion(NamedTuple):
    """The data of one step: ``rows`` rows from number ``first`` on, cut to ``length`` tokens."""

    first: int
    rows: int
    length: int


class Plan:
    """Says what each step learns from.

    Rows are numbered over all epochs. Without ramps step s takes rows s n to (s + 1) n. What was left out, or a run
    that was continued on purpose with other sizes, moves all later rows; `state` keeps that.
    """

    def __init__(self, config: RunConfig) -> None:
        self._rows, self._context = config.rows_per_step, config.model.max_seq_len
        self._sizes = _batch_sizes(config.train.batch_ramp, self._rows, self._context)
        self._starts = [0, *accumulate(self._sizes)]
        self._length_ramp = config.train.length_ramp
        self._moved = 0
        self._left_out: list[tuple[int, int]] = []

    def portion(self, step: int) -> Portion:
        """Return the data of ``step``, counted from 0."""
        return Portion(self._first(step), self._count(step), self._length(step))

    def ramp_tokens(self) -> tuple[int, ...]:
        """Return the tokens of each of the first steps, where a ramp makes them other than the rest."""
        return tuple(size * self._context for size in self._sizes)

    def leave_out(self, portion: Portion) -> None:
        """Never use these rows: the step that would have taken them, and all later ones, take what follows."""
        self._left_out = sorted([*self._left_out, (portion.first, portion.rows)])

    def state(self, step: int) -> dict[str, Any]:
        """Return what `restore` needs to go on at ``step``: the next row, and what is left out further on."""
        row = self._first(step)
        return {"row": row, "left_out": [list(each) for each in self._left_out if each[0] > row]}

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Go on at ``step`` with the row that is next."""
        self._left_out = sorted((first, count) for first, count in state["left_out"])
        self._moved = state["row"] - self._nominal(step)

    def _first(self, step: int) -> int:
        row = self._nominal(step) + self._moved
        for first, count in self._left_out:
            if row >= first:
                row += count
        return row

    def _nominal(self, step: int) -> int:
        ramp = min(step, len(self._sizes))
        return self._starts[ramp] + (step - ramp) * self._rows

    def _count(self, step: int) -> int:
        return self._sizes[step] if step < len(self._sizes) else self._rows

    def _length(self, step: int) -> int:
        ramp = self._length_ramp
        if ramp is None or step >= ramp.steps:
            return self._context
        lengths = _lengths(ramp, self._context)
        return lengths[step * (len(lengths) - 1) // ramp.steps]


def _batch_sizes(ramp: BatchRamp | None, rows: int, context: int) -> list[int]:
    """Return the rows of each step of the ramp."""
    if ramp is None:
        return []
    least = ramp.start // context
    return [least + round((rows - least) * step / ramp.steps) for step in range(ramp.steps)]


def _lengths(ramp: LengthRamp, context: int) -> list[int]:
    """Return the lengths of the ramp: doubled as long as the double still divides the context, which comes last."""
    found = [ramp.start]
    while context % (2 * found[-1]) == 0:
        found.append(2 * found[-1])
    return found if found[-1] == context else [*found, context]
