"""A memory of fixed size, for attentions that sum instead of keeping every key.

Shapes: B batch.
"""

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

    def __init__(self, memory: M) -> None:
        self.memory = memory
        self.length = 0

    def update(self, memory: M, seq: Sequence) -> None:
        """Remember ``memory`` as what there is to know up to the last token of ``seq``."""
        self.memory = memory
        self.length += len(seq)

    def select(self, rows: Tensor) -> "Recurrent[M]":
        """Return a state of only these rows."""
        chosen = Recurrent(type(self.memory)(*(x[rows] for x in self.memory)))
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
