"""Where the decode states of many rows live, and how a row is fed: together where the parts allow it, else apart.

Shapes: n rows, T tokens fed at once, D d_model.
"""

import time
from collections.abc import Sequence as Ids
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gptwright.errors import GptwrightError, Unsupported
from gptwright.model.states import ModelStates
from gptwright.model.tape import Recorder, Tape
from gptwright.nn.state.base import SharedState
from gptwright.ops.native.build import library
from gptwright.ops.native.kernels import DTYPES
from gptwright.ops.sequence import Sequence

if TYPE_CHECKING:
    from gptwright.model.gpt import GPT


FEW = 16
"""Tokens of one row that are recorded as one step; more are read by large products."""


class Apart:
    """Every row has states of its own, and is fed alone: right for whatever states parts may have."""

    def __init__(self, model: "GPT", rows: int, length: int) -> None:
        self.model, self.length = model, length
        self.states = [self._fresh() for _ in range(rows)]

    @property
    def lengths(self) -> list[int]:
        """Tokens fed to each row."""
        return [states.length for states in self.states]

    def extend(self, row: int, ids: Ids[int], *, every: bool) -> Tensor:
        """Feed ``ids`` (T,) to a row; return logits (T, V), or those of the last token (1, V)."""
        hidden = _fed(self.model, self.states[row], ids)
        return _logits(self.model, hidden if every else hidden[-1:])

    def step(self, ids: Ids[int]) -> Tensor:
        """Feed one token to each of the first rows; return their logits (n, V)."""
        return torch.cat([self.extend(row, [token], every=True) for row, token in enumerate(ids)])

    def keeps(self, row: int, length: int) -> bool:
        """Whether a row can go back to ``length`` tokens."""
        try:
            self.states[row].select(torch.arange(0)).truncate(length)
        except GptwrightError:
            return False
        return True

    def seek(self, row: int, length: int) -> None:
        """Go back to ``length`` tokens."""
        if length:
            self.states[row].truncate(length)
        else:
            self.states[row] = self._fresh()

    def snapshot(self, row: int) -> ModelStates:
        """Return a copy of what a row knows."""
        return self.states[row].select([0])

    def restore(self, row: int, snapshot: ModelStates) -> None:
        """Give a row what was copied."""
        self.states[row] = snapshot.select([0])

    def take(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of a row to another."""
        self.states[target] = self.states[source].select([0])
        self.states[target].truncate(length)

    def prepare(self, count: int) -> None:
        """Do nothing: nothing is recorded."""

    def setup_seconds(self, row: int, count: int) -> float:
        """Return 0: nothing is set up."""
        del row, count
        return 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(states.nbytes for states in self.states)

    def _fresh(self) -> ModelStates:
        return self.model.init_states(batch=1, length=self.length)


class Together:
    """All rows share one state a layer, each at a place of its own, and are fed in one step."""

    def __init__(self, model: "GPT", rows: int, length: int) -> None:
        self.model, self.length = model, length
        self.layers: list[Any] = list(model.init_states(batch=rows, length=length))
        self.lengths = [0] * rows
        self.many = all(layer.MANY for layer in self.layers)
        self._constants = [*model.parameters(), *model.buffers()] if can_record(model) else []
        self.steady = bool(self._constants) or model.dtype == torch.float32
        """Whether rounding hides which rows stand beside one another; where not, each is fed alone."""
        self._tapes: dict[tuple[int, int, int], _Step] = {}
        for layer in self.layers:
            layer.seek(0)

    def extend(self, row: int, ids: Ids[int], *, every: bool) -> Tensor:
        """Feed ``ids`` (T,) to a row; return logits (T, V), or those of the last token (1, V)."""
        self._reserve(self.lengths[row] + len(ids))
        if len(ids) == 1 or (self.many and len(ids) <= FEW and self.lengths[row]):
            found = self._step(row, row + 1, len(ids)).run([list(ids)], [self.lengths[row]])
            self.lengths[row] += len(ids)
            return found if every else found[-1:]
        hidden = _fed(self.model, self._alone(row), ids)
        self.lengths[row] += len(ids)
        return self._head(hidden if every else hidden[-1:])

    def step(self, ids: Ids[int]) -> Tensor:
        """Feed one token to each of the first rows; return their logits (n, V)."""
        count = len(ids)
        self._reserve(max(self.lengths[:count]) + 1)
        if count > 1 and not self.steady:
            return torch.cat([self.extend(row, [token], every=True).clone() for row, token in enumerate(ids)])
        found = self._step(0, count, 1).run([[token] for token in ids], self.lengths[:count])
        for row in range(count):
            self.lengths[row] += 1
        return found

    def keeps(self, row: int, length: int) -> bool:
        """Whether a row can go back to ``length`` tokens."""
        return all(layer.keeps(self.lengths[row], length) for layer in self.layers)

    def seek(self, row: int, length: int) -> None:
        """Go back to ``length`` tokens."""
        if not length:
            for layer in self.layers:
                layer.rows(row, row + 1).seek(0)
        self.lengths[row] = length

    def snapshot(self, row: int) -> Any:
        """Return a copy of what a row knows."""
        return self.lengths[row], [layer.select(torch.tensor([row])) for layer in self.layers]

    def restore(self, row: int, snapshot: Any) -> None:
        """Give a row what was copied."""
        self.lengths[row], kept = snapshot
        for layer, one in zip(self.layers, kept, strict=True):
            layer.take(row, one, 0, self.lengths[row])

    def take(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of a row to another."""
        for layer in self.layers:
            layer.take(target, layer, source, length)
        self.lengths[target] = length

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(layer.nbytes for layer in self.layers)

    def _head(self, hidden: Tensor) -> Tensor:
        """Return the logits (n, V) of vectors (n, D): by kernels where there are few and the model can be recorded."""
        if len(hidden) > FEW or not self._constants:
            return _logits(self.model, hidden)
        with Recorder():
            return _logits(self.model, hidden)

    def _reserve(self, length: int) -> None:
        if length <= self.length:
            return
        self.length = max(length, self.length * 3 // 2)
        for layer in self.layers:
            layer.reserve(self.length)
        self._tapes.clear()  # they know the memory by its old place

    def prepare(self, count: int) -> None:
        """Record what feeding so many tokens to the first row takes, while nothing has been fed to it."""
        if self._constants and self.many and 1 < count <= FEW and not self.lengths[0]:
            self._reserve(count)
            step = self._step(0, 1, count)
            if step.tape is None:
                step.run([[0] * count], [0])

    def setup_seconds(self, row: int, count: int) -> float:
        """Return what feeding so many tokens to a row costs beside the work itself, the first time that it is done."""
        known = self._tapes.get((row, row + 1, count))
        if not self._constants or count > FEW or (known is not None and known.tape is not None):
            return 0.0
        return max((step.seconds for step in self._tapes.values()), default=0.0)

    def _alone(self, row: int) -> ModelStates:
        """Return the states of one row, as a model that knows no other row takes them."""
        views = [layer.rows(row, row + 1) for layer in self.layers]
        for view in views:
            view.seek(self.lengths[row])
        states = ModelStates(views, 1, self.model.device)
        states.length = self.lengths[row]
        return states

    def _step(self, start: int, stop: int, length: int) -> "_Step":
        key = (start, stop, length)
        if key not in self._tapes:
            states = [layer.rows(start, stop) for layer in self.layers]
            self._tapes[key] = _Step(self.model, states, stop - start, length, self._constants)
        return self._tapes[key]


class _Step:
    """One step of some rows, recorded when it runs for the first time where that is possible."""

    def __init__(self, model: "GPT", states: list[Any], rows: int, length: int, constants: list[Tensor]) -> None:
        self.model, self.states, self.constants = model, states, constants
        self.ids = torch.zeros(rows, length, dtype=torch.int64, device=model.device)
        self.positions = torch.zeros_like(self.ids)
        self.segments = torch.ones_like(self.ids)
        self.offsets = torch.arange(length, device=model.device)
        self.tape: Tape | None = None
        self.recordable = bool(constants)
        self.seconds = 0.0
        """What recording took."""

    def run(self, ids: list[list[int]], lengths: list[int]) -> Tensor:
        """Feed ``ids`` (n, T) to rows of these lengths; return logits (n * T, V), which the next run writes over."""
        self.ids.copy_(torch.tensor(ids))
        torch.add(torch.tensor(lengths)[:, None].to(self.ids.device), self.offsets, out=self.positions)
        if self.tape is not None:
            return self.tape.play()
        if not self.recordable:
            return self._fed()
        return self._record()

    def _record(self) -> Tensor:
        began = time.perf_counter()
        before = [None if state.MANY else state.select(torch.arange(len(self.ids))) for state in self.states]
        try:
            recorder = Recorder(self.constants)
            with recorder:
                found = self._fed()
        except Unsupported:
            self.recordable = False
            for state, kept in zip(self.states, before, strict=True):
                for row in range(len(self.ids) if kept is not None else 0):  # some layers may have gone on already
                    state.take(row, kept, row, 0)
            return self._fed()
        self.tape = Tape(recorder.steps, found)
        self.seconds = time.perf_counter() - began
        return found

    def _fed(self) -> Tensor:
        seq = Sequence(self.positions, self.segments, ragged=True)
        return _logits(self.model, self.model.hidden(self.ids, seq, self.states).flatten(0, 1))


def can_share(model: "GPT") -> bool:
    """Whether every part has states whose rows can be decoded side by side."""
    with torch.device("meta"):
        kinds = [layer.attention.init_state(1, 1, device="meta") for layer in model.layers]  # pyright: ignore
    return all(isinstance(kind, SharedState) for kind in kinds)


def can_record(model: "GPT") -> bool:
    """Whether a step of this model can be written down: with kernels, on a CPU, of parts that are known to allow it."""
    parts = list(model.modules())
    known = all(type(part).__module__.startswith(("gptwright.", "torch.")) for part in parts)
    steady = all(getattr(part, "RECORDABLE", True) for part in parts)
    return known and steady and library() is not None and model.device.type == "cpu" and model.dtype in DTYPES


def _fed(model: "GPT", states: ModelStates, ids: Ids[int]) -> Tensor:
    new = torch.tensor([list(ids)], device=model.device)
    return model.hidden(new, model.describe(new, None, None, states), states)[0]


def _logits(model: "GPT", hidden: Tensor) -> Tensor:
    return model.logits(hidden).float()
