"""A batch to learn from or to be measured on: what goes in, and what should come out.

Shapes: R rows, T context.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from gptwright.ops.loss import IGNORE


class Batch(NamedTuple):
    """Token ids, the token that follows each, and where documents share a row, which one each belongs to."""

    inputs: Tensor
    """(R, T) int64."""
    targets: Tensor
    """(R, T) int64: the token after each of the inputs, `IGNORE` where nothing is to be predicted."""
    segments: Tensor | None = None
    """(R, T) int64: number of each token's document in its row, 0 at padding; None: each row is one document."""

    @property
    def rows(self) -> int:
        """R."""
        return self.inputs.shape[0]

    def wanted(self) -> Tensor:
        """Return how many tokens are to be predicted, as a scalar on the batch's device."""
        return (self.targets != IGNORE).sum()

    def split(self, rows: int) -> Iterator["Batch"]:
        """Yield the batch in parts of at most ``rows`` rows."""
        for start in range(0, self.rows, rows):
            part = slice(start, start + rows)
            segments = None if self.segments is None else self.segments[part]
            yield Batch(self.inputs[part], self.targets[part], segments)

    def cut(self, length: int) -> "Batch":
        """Return the same tokens in rows of ``length``, a divisor of T: each row becomes several that stand alone."""
        fields = (None if field is None else field.reshape(-1, length) for field in self)
        return Batch(*fields)  # pyright: ignore[reportArgumentType]
