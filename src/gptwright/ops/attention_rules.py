"""What attention by softmax may be asked to do: which keys a query sees, and how scores become weights.

Shapes: B batch, H query heads, T query positions, S key positions.
"""

from typing import NamedTuple

from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""The same fact about queries and about keys."""


class Scoring(NamedTuple):
    """What happens to scores on their way to weights; by default only the scale."""

    softcap: float | None = None
    """Bound c: a score s becomes c * tanh(s / c)."""
    slopes: Tensor | None = None
    """(H,) fp32: what each position of distance costs (ALiBi); subtracted after the softcap."""
    sinks: Tensor | None = None
    """(H,): a score that takes part in each head's softmax and carries no value."""
    scale: float | None = None
    """Factor on the products. Default 1 / sqrt(d)."""
    dropout: float = 0.0
    """Probability of dropping a weight."""

    @property
    def is_plain(self) -> bool:
        """Whether scores are only scaled: what torch's fused kernels compute."""
        return self.softcap is None and self.slopes is None and self.sinks is None


PLAIN = Scoring()


class Sight(NamedTuple):
    """Which keys each query sees: those that no rule here hides. Rules go by index, counted from the last key back.

    The last query stands at the last key, the one before at the one before, and so on: with T = S query i stands
    at key i, and with a cache the queries are its newest entries.
    """

    causal: bool = False
    """Hide keys after the query's own place."""
    window: int | None = None
    """Hide all but this many keys up to the query's own place; only with `causal`."""
    mask: Tensor | None = None
    """(B or 1, T, S) bool: hide keys where False."""
    segments: Pair | None = None
    """(B or 1, T) and (B or 1, S): hide keys of another document."""
    first_keys: tuple[int, ...] | None = None
    """For each block of queries, a key before which it sees none; a promise that saves work."""

    def hidden(self, queries: slice, keys: slice) -> Tensor | None:
        """(B or 1, C, W) bool: which of these keys the mask or the segments hide from these queries; None: none."""
        hidden = None if self.mask is None else ~self.mask[:, queries, keys]
        if self.segments is None:
            return hidden
        others = self.segments[0][:, queries, None] != self.segments[1][:, None, keys]
        return others if hidden is None else hidden | others
