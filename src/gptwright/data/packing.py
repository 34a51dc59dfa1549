"""How documents fill rows of equal length; each way says how many rows an epoch has, and what stands in a row.

Shapes: R rows, T context.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from gptwright.data.plan import Plan
from gptwright.data.sampler import mix
from gptwright.errors import DataError

IGNORE = -100
"""The target that no loss counts."""

_MANY = 16  # rows from which on one more does not matter


class Stream(Protocol):
    """Token ids that can be read anywhere, such as a `TokenStream`."""

    def __len__(self) -> int: ...

    def read(self, start: int, n: int) -> np.ndarray:
        """Return ids ``start`` to ``start + n``, int64 (n,)."""
        ...

    def learn(self, start: int, n: int) -> np.ndarray:
        """Return which of them count in the loss, bool (n,)."""
        ...


class Rows(NamedTuple):
    """Rows to learn from or to be measured on."""

    inputs: np.ndarray
    """(R, T) int64, 0 where there is nothing."""
    targets: np.ndarray
    """(R, T) int64: the token after each input, `IGNORE` where none is to be predicted."""
    segments: np.ndarray | None
    """(R, T) int64: number of each token's document in its row, 0 where there is nothing; None: no boundaries."""


class Packing(ABC):
    """The rows of one split. In one epoch every token that can be predicted is a target exactly once."""

    n_rows: int
    """Rows of an epoch."""

    @abstractmethod
    def rows(self, places: np.ndarray, keys: np.ndarray) -> Rows:
        """Return rows ``places``, each in 0 .. n_rows - 1, of the epochs whose random keys are ``keys``."""

    @abstractmethod
    def in_order(self, count: int) -> Iterator[Rows]:
        """Yield every row, in the order of the text, at most ``count`` at once."""


class Windows(Packing):
    """One line of tokens, cut into windows: the fastest way, and the one in which no token is padding.

    Every token but the first is a target once an epoch. Each epoch cuts at places of its own; the windows at both
    ends are moved inside, and what the next window predicts as well is no target of theirs.

    Raises:
        DataError: the line is shorter than one window and its target.
    """

    def __init__(self, stream: Stream, context: int, what: str) -> None:
        n_tokens = len(stream)
        if n_tokens < context + 1:
            raise DataError(
                f"{what} has {n_tokens} tokens, and one window of context {context} with its target "
                f"needs {context + 1}: give more text, lower model.max_seq_len, or change data.val_fraction"
            )
        self.stream, self.context = stream, context
        self._targets = n_tokens - 1
        self.n_rows = -(-self._targets // context)
        if self.n_rows >= _MANY and self.n_rows * context - self._targets < context // 2:
            self.n_rows += 1  # with more room, epochs differ more in where they cut
        ends = self._targets - (self.n_rows - 2) * context  # targets of the first window and the last together
        self._least, self._most = max(1, ends - context), min(context, ends - 1)

    def rows(self, places: np.ndarray, keys: np.ndarray) -> Rows:
        """Return windows; where the first ends, and with it all others, the epoch's key decides."""
        context = self.context
        first = np.full(len(places), self._targets, dtype=np.int64)
        if self.n_rows > 1:
            first = self._least + (mix(keys) % np.uint64(self._most - self._least + 1)).astype(np.int64)
        ends = np.minimum(first + places * context, self._targets)
        begins = np.where(places == 0, 0, first + (places - 1) * context)
        starts = np.minimum(begins, self._targets - context)
        ids = np.stack([self.stream.read(start, context + 1) for start in starts.tolist()])
        targets = ids[:, 1:].copy()  # of a single row, a slice counts as contiguous and would be no copy
        number = starts[:, None] + np.arange(context)  # of each target, in the stream
        targets[(number < begins[:, None]) | (number >= ends[:, None])] = IGNORE
        return Rows(np.ascontiguousarray(ids[:, :-1]), targets, None)

    def in_order(self, count: int) -> Iterator[Rows]:
        """Yield windows one after the other from the first token; the end of the last is filled up."""
        context = self.context
        for first in range(0, self._targets, count * context):
            n = min(count * context, self._targets - first)
            ids, height = self.stream.read(first, n + 1), -(-n // context)
            inputs = np.zeros(height * context, dtype=np.int64)
            targets = np.full(height * context, IGNORE, dtype=np.int64)
            inputs[:n], targets[:n] = ids[:-1], ids[1:]
            yield Rows(inputs.reshape(height, context), targets.reshape(height, context), None)


class Documents(Packing):
    """Documents side by side in rows, as a plan says; each is a segment of its own, which attention respects.

    Every token but the first of each document is a target once an epoch, or of those the ones that are learnt.
    """

    def __init__(self, stream: Stream, plan: Plan, *, answers_only: bool) -> None:
        self.stream, self.plan, self.answers_only = stream, plan, answers_only
        self.context, self.n_rows = plan.context, plan.n_rows

    def rows(self, places: np.ndarray, keys: np.ndarray) -> Rows:
        """Return the rows, which are the same in each epoch."""
        del keys
        shape = (len(places), self.context)
        found = Rows(np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64), np.zeros(shape, np.int64))
        for row, place in enumerate(places.tolist()):
            self._fill(row, place, found)
        return found

    def _fill(self, row: int, place: int, found: Rows) -> None:
        inputs, targets, segments = found
        assert segments is not None
        at = 0
        for number, (start, count) in enumerate(self.plan.row(place), start=1):
            ids, to = self.stream.read(start, count + 1), at + count
            inputs[row, at:to], targets[row, at:to], segments[row, at:to] = ids[:-1], ids[1:], number
            if self.answers_only:
                targets[row, at:to][~self.stream.learn(start + 1, count)] = IGNORE
            at = to

    def in_order(self, count: int) -> Iterator[Rows]:
        """Yield the rows of the plan."""
        for first in range(0, self.n_rows, count):
            places = np.arange(first, min(first + count, self.n_rows))
            yield self.rows(places, np.zeros(len(places), dtype=np.uint64))
