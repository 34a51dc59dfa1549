"""What every decode state offers, and what states of columns share.

Shapes: B batch, T new tokens, S tokens seen.

A state takes any number of tokens at a time. ``select`` keeps some rows, ``truncate`` forgets the latest
tokens where the mathematics allows it, ``nbytes`` is what it holds.
"""

from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.ops.sequence import Sequence, visible

BLOCK = 64
"""Caches grow by whole blocks, so that shapes repeat."""


@runtime_checkable
class State(Protocol):
    """What every decode state offers."""

    def select(self, rows: Tensor) -> "State":
        """Return a state of only these ``rows`` (int64 indices), in this order."""
        ...

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` columns fed so far."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


@runtime_checkable
class SharedState(State, Protocol):
    """A state whose rows can be decoded side by side, each at a place of its own (see `Sequence.at`).

    Its rows live in memory that stays where it is, unless `reserve` has to make room.
    """

    MANY: ClassVar[bool]
    """Whether several tokens a row may be fed at once while rows stand at different places."""

    def rows(self, start: int, stop: int) -> "SharedState":
        """Return a state of some rows that shares their memory with this one."""
        ...

    def seek(self, length: int) -> None:
        """Say that every row holds the first ``length`` tokens of its only document; 0 empties all."""
        ...

    def take(self, row: int, other: Any, source: int, length: int) -> None:
        """Copy to ``row`` what row ``source`` of another state of this kind knows of its first ``length`` tokens."""
        ...

    def reserve(self, length: int) -> None:
        """Have room for ``length`` tokens in every row."""
        ...

    def keeps(self, seen: int, length: int) -> bool:
        """Whether a row that has seen ``seen`` tokens still knows all there is to know of its first ``length``."""
        ...


def check_truncation(length: int, seen: int) -> None:
    """Refuse a length that is negative or has not been reached."""
    if not 0 <= length <= seen:
        raise GptwrightError(f"cannot truncate a state of {seen} tokens to {length}; give a length from 0 to {seen}")


class Columns:
    """Columns of a batch in the order fed: their positions and segments, with room for more."""

    def __init__(self, batch: int, capacity: int, device: Any) -> None:
        self.positions = torch.zeros(batch, capacity, dtype=torch.long, device=device)
        self.segments = torch.zeros(batch, capacity, dtype=torch.long, device=device)
        self.length = 0
        self.plain = True  # every row has been one unpadded segment from position 0

    def append(self, seq: Sequence) -> None:
        """Take in the columns of ``seq``."""
        stop = self.length + len(seq)
        self.reserve(stop)
        self.plain = self.plain and seq.start == self.length
        self.positions[:, self.length : stop] = seq.positions
        self.segments[:, self.length : stop] = seq.segments
        self.length = stop

    def rows(self, start: int, stop: int) -> "Columns":
        """Return the columns of some rows, in the same memory."""
        chosen = Columns.__new__(Columns)
        chosen.positions, chosen.segments = self.positions[start:stop], self.segments[start:stop]
        chosen.length, chosen.plain = self.length, self.plain
        return chosen

    def seek(self, length: int) -> None:
        """Say that every row is the first ``length`` tokens of one document."""
        self.positions.copy_(torch.arange(self.positions.shape[1], device=self.positions.device))
        self.segments.fill_(1)
        self.length, self.plain = length, True

    def reserve(self, length: int) -> None:
        """Have room for ``length`` columns."""
        if length > self.positions.shape[1]:
            self.positions = grown(self.positions, length, dim=1)
            self.segments = grown(self.segments, length, dim=1)

    def mask(self, queries: Sequence) -> Tensor | None:
        """(B, T, S) bool for queries just appended; None where nothing is hidden."""
        if self.plain and len(queries) == 1:
            return None
        return visible(queries, self.positions[:, : self.length], self.segments[:, : self.length])

    def select(self, rows: Tensor) -> "Columns":
        """Return the columns of only these rows."""
        chosen = Columns.__new__(Columns)
        chosen.positions, chosen.segments = self.positions[rows], self.segments[rows]
        chosen.length, chosen.plain = self.length, self.plain
        return chosen

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.positions.nbytes + self.segments.nbytes


def round_up(length: int) -> int:
    """Return ``length`` rounded up to a whole number of blocks."""
    return -(-max(length, 1) // BLOCK) * BLOCK


def grown(x: Tensor, needed: int, *, dim: int) -> Tensor:
    """Return ``x`` with room for at least ``needed`` entries along ``dim``, at least half again as large."""
    shape = list(x.shape)
    shape[dim] = round_up(max(needed, shape[dim] + shape[dim] // 2)) - shape[dim]
    return torch.cat((x, x.new_zeros(shape)), dim)
