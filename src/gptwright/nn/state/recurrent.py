"""A memory of fixed size, for attentions that sum instead of keeping every key.

Shapes: B batch.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

from torch import Tensor

from gptwright.errors import Unsupported
from gptwright.nn.state.base import check_truncation
from gptwright.ops.sequence import Sequence

M = TypeVar("M", bound=tuple[Tensor, ...])


class Recurrent(Generic[M]):
    """A memory of fixed size: a named tuple of tensors whose first dimension is the batch.

    It holds each row's current document only: a token at position 0 begins another and leaves it behind.
    """

    MANY = False

    def __init__(self, memory: M) -> None:
        self.memory = memory
        self.length = 0
        self.shared = False  # whether others look at this memory, which then stays where it is

    def update(self, memory: M, seq: Sequence) -> None:
        """Remember ``memory`` as what there is to know up to the last token of ``seq``."""
        if self.shared:
            for old, new in zip(self.memory, memory, strict=True):
                old.copy_(new)
        else:
            self.memory = memory
        self.length += len(seq)

    def rows(self, start: int, stop: int) -> "Recurrent[M]":
        """Return a state of some rows, in the same memory."""
        self.shared = True
        chosen = Recurrent(self._made(x[start:stop] for x in self.memory))
        chosen.length, chosen.shared = self.length, True
        return chosen

    def seek(self, length: int) -> None:
        """Say that every row has seen ``length`` tokens; 0 makes all memory that of nothing."""
        self.length = length
        if not length:
            for x in self.memory:
                x.zero_()

    def take(self, row: int, other: "Recurrent[M]", source: int, length: int) -> None:
        """Copy to ``row`` the memory of row ``source`` of another state."""
        del length
        for own, given in zip(self.memory, other.memory, strict=True):
            own[row] = given[source]

    def reserve(self, length: int) -> None:
        """Do nothing: the size is fixed."""

    def keeps(self, seen: int, length: int) -> bool:
        """Say whether nothing is to be forgotten: sums cannot be taken back."""
        return length == seen

    def _made(self, tensors: Iterable[Tensor]) -> M:
        return type(self.memory)(*tensors)

    def select(self, rows: Tensor) -> "Recurrent[M]":
        """Return a state of only these rows."""
        chosen = Recurrent(self._made(x[rows] for x in self.memory))
        chosen.length = self.length
        return chosen

    def truncate(self, length: int) -> None:
        """Refuse: sums cannot be taken back."""
        check_truncation(length, self.length)
        if length != self.length:
            raise Unsupported(
                f"a recurrent state is a sum over its {self.length} tokens and cannot go back to {length}; "
                "keep a copy from before (select all rows), or start again"
            )

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(x.nbytes for x in self.memory)
