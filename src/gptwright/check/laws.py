"""Every law in the order in which a report names them, and which of them rest on others."""

from collections.abc import Callable
from dataclasses import dataclass

from gptwright.check.accounting import flops_are_counted, parameters_are_counted, state_bytes_are_counted
from gptwright.check.compiled import compiled_equals_eager
from gptwright.check.decoding import (
    padded_steps_equal_full,
    rows_go_on_by_themselves,
    states_can_be_selected,
    states_can_be_truncated,
    steps_equal_full,
)
from gptwright.check.fast_paths import fast_paths_equal_references
from gptwright.check.forward import (
    calls_are_independent,
    packing_changes_nothing,
    padding_changes_nothing,
    padding_stays_finite,
    shapes_are_kept,
    the_future_is_unseen,
)
from gptwright.check.gradients import everything_learns, gradients_ignore_neighbours
from gptwright.check.numerics import low_precision_is_kept, nothing_is_read_before_it_is_written, weights_can_be_saved
from gptwright.check.tensor_parallel import slices_sum_to_the_whole
from gptwright.model.gpt import GPT

Holds = Callable[[GPT], str | None]

RESTS_ON: dict[Holds, tuple[Holds, ...]] = {
    shapes_are_kept: (),
    calls_are_independent: (shapes_are_kept,),
    the_future_is_unseen: (calls_are_independent,),
    padding_stays_finite: (calls_are_independent,),
    padding_changes_nothing: (padding_stays_finite,),
    packing_changes_nothing: (padding_changes_nothing,),
    gradients_ignore_neighbours: (packing_changes_nothing,),
    everything_learns: (calls_are_independent,),
    steps_equal_full: (the_future_is_unseen,),
    padded_steps_equal_full: (steps_equal_full, packing_changes_nothing),
    states_can_be_selected: (padded_steps_equal_full,),
    states_can_be_truncated: (padded_steps_equal_full,),
    rows_go_on_by_themselves: (states_can_be_selected, states_can_be_truncated),
    fast_paths_equal_references: (packing_changes_nothing,),
    compiled_equals_eager: (calls_are_independent,),
    slices_sum_to_the_whole: (steps_equal_full,),
    low_precision_is_kept: (shapes_are_kept,),
    weights_can_be_saved: (calls_are_independent,),
    nothing_is_read_before_it_is_written: (padded_steps_equal_full,),
    parameters_are_counted: (shapes_are_kept,),
    flops_are_counted: (shapes_are_kept,),
    state_bytes_are_counted: (steps_equal_full, low_precision_is_kept),
}
"""Each law with those that it takes for granted: where one of them is broken, it says nothing new."""

EQUALITY = (
    steps_equal_full,
    padding_changes_nothing,
    packing_changes_nothing,
    padded_steps_equal_full,
    rows_go_on_by_themselves,
    the_future_is_unseen,
    gradients_ignore_neighbours,
    states_can_be_selected,
    states_can_be_truncated,
)
"""The law of equality, which every combination of parts keeps."""


@dataclass(frozen=True)
class Law:
    """A law as a report names it."""

    holds: Holds
    needs: tuple[Holds, ...] = ()

    @property
    def name(self) -> str:
        """What the report calls it."""
        return _words(self.holds)

    @property
    def promise(self) -> str:
        """What is promised, in words."""
        return (self.holds.__doc__ or "").strip().partition("\n")[0]

    @property
    def rests_on(self) -> tuple[str, ...]:
        """The names of the laws that it takes for granted."""
        return tuple(_words(other) for other in self.needs)


def _words(holds: Holds) -> str:
    return holds.__name__.replace("_", " ")


LAWS = tuple(Law(holds, needs) for holds, needs in RESTS_ON.items())
