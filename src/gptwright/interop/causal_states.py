"""What transformers says of a batch, in our words, and our decode states under the methods that it calls.

Shapes: B batch, T new tokens, S tokens so far.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gptwright.errors import GptwrightError
from gptwright.model.gpt import GPT
from gptwright.model.states import ModelStates
from gptwright.ops.sequence import Sequence


class GPTWrightStates(Cache):
    """Our decode states under the methods that transformers calls."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__(layers=[])
        self._gpt = gpt
        self.states: ModelStates | None = None
        """The states, once there are rows to have them."""

    def for_rows(self, batch: int) -> ModelStates:
        """Return the states of ``batch`` rows, made at the first call."""
        if self.states is None:
            self.states = self._gpt.init_states(batch, self._gpt.config.max_seq_len)
        return self.states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return S, padding included."""
        del layer_idx
        return 0 if self.states is None else self.states.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return -1: there is no limit."""
        del layer_idx
        return -1

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        if self.states is not None:
            self.states = self.states.select(indices)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each beam the states of the one that it continues."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Give each row ``repeats`` copies."""
        if self.states is not None:
            self.batch_select_indices(torch.arange(self.states.batch).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; a positive number is the length to keep, as transformers had it before.

        Raises:
            Unsupported: a layer sums over its tokens and cannot go back.
        """
        length = self.get_seq_length()
        if self.states is not None and tokens_to_remove:
            kept = length + tokens_to_remove if tokens_to_remove < 0 else min(length, tokens_to_remove)
            self.states.truncate(kept)

    def activate_past_recording(self) -> None:
        """Do nothing: keys can be taken back, and sums cannot."""

    def reset(self) -> None:
        """Forget everything."""
        self.states = None

    @property
    def is_compileable(self) -> bool:
        """Say no: caches grow."""
        return False


def states_of(past: Any, gpt: GPT, *, wanted: bool) -> GPTWrightStates | None:
    """Return the cache to use, if any: the one given, or a new one where one is wanted or an empty one was given.

    Raises:
        GptwrightError: it is another model's, and has seen something.
    """
    if past is None or isinstance(past, GPTWrightStates):
        return GPTWrightStates(gpt) if past is None and wanted else past
    if past.get_seq_length():
        raise GptwrightError(
            f"past_key_values is a {type(past).__name__} of {past.get_seq_length()} tokens, and this model has "
            "GPTWrightStates; give those that an earlier call returned"
        )
    return GPTWrightStates(gpt)


def describe(gpt: GPT, ids: Tensor, mask: Tensor | None, positions: Tensor | None, states: Any) -> Sequence:
    """Return the sequence that ``ids`` (B, T), a mask (B, T) or (B, S) and positions (B, T) amount to.

    Raises:
        GptwrightError: shapes do not fit, or positions do not count the real tokens of each document from 0.
    """
    length = ids.shape[1]
    real = None if mask is None or bool(mask[:, -length:].all()) else mask[:, -length:].bool()
    if positions is None:
        return gpt.describe(ids, real, states=states)
    positions = positions.expand(ids.shape)
    begins = positions == 0 if real is None else (positions == 0) & real
    if not bool(begins[:, 1:].any()) or (real is not None and int(begins.sum(1).max()) < 2):
        seq = gpt.describe(ids, real, states=states)
    else:
        documents = begins.long().cumsum(1)
        documents = documents if states is None else documents + states.clock.segment[:, None]
        seq = gpt.describe(ids, segments=documents if real is None else documents * real, states=states)
    wrong = (seq.positions != positions) & seq.real
    if bool(wrong.any()):
        row, column = (int(x) for x in wrong.nonzero()[0])
        raise GptwrightError(
            f"position_ids say {int(positions[row, column])} at column {column} of row {row}, where "
            f"{int(seq.positions[row, column])} is due: they must count the real tokens of each document from 0; leave "
            "them out, or begin each document at 0"
        )
    return seq
