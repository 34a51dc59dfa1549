"""A memory of fixed size, for attentions that sum instead of keeping every key.

Shapes: B batch.
"""

from typing import Generic, TypeVar

import torch
from torch import Tensor

from gptwright.errors import Unsupported
from gptwright.nn.state.base import check_truncation
from gptwright.ops.sequence import Sequence

M = TypeVar("M", bound=tuple[Tensor, ...])


class Recurrent(Generic[M]):
    """A memory of fixed size: a named tuple of tensors whose first dimension is the batch."""

    def __init__(self, memory: M) -> None:
        self.memory = memory
        self.segment = torch.zeros(len(memory[0]), dtype=torch.long, device=memory[0].device)
        self.length = 0

    def goes_on(self, seq: Sequence) -> Tensor:
        """(B,) bool: whether the first real token of ``seq`` continues the document remembered."""
        first = seq.real.long().argmax(1, keepdim=True)
        return (seq.segments.gather(1, first)[:, 0] == self.segment) | ~seq.real.any(1)

    def update(self, memory: M, seq: Sequence) -> None:
        """Remember ``memory`` as the sum up to the last token of ``seq``."""
        self.memory = memory
        last = seq.clock().segment
        self.segment = torch.where(last > 0, last, self.segment)
        self.length += len(seq)

    def select(self, rows: Tensor) -> "Recurrent[M]":
        """Return a state of only these rows."""
        chosen = Recurrent(type(self.memory)(*(x[rows] for x in self.memory)))
        chosen.segment, chosen.length = self.segment[rows], self.length
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
        return sum(x.nbytes for x in self.memory) + self.segment.nbytes
