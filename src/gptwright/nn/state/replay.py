"""The state of an attention that has none of its own: its inputs, run again.

Shapes: B batch, T new tokens, L capacity, D d_model.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gptwright.nn.state.base import Columns, check_truncation, round_up
from gptwright.ops.sequence import Sequence


class Replay:
    """Every input seen (B, L, D), for an attention that has no state of its own: each call runs it over all of them.

    Exact for any causal mixer, at the cost of a full forward a token.
    """

    def __init__(self, batch: int, length: int, *, device: Any = None, dtype: Any = None) -> None:
        del dtype
        self.x: Tensor | None = None
        self.columns = Columns(batch, round_up(length), device)

    def run(self, mixer: Callable[[Tensor, Sequence], Tensor], x: Tensor, seq: Sequence) -> Tensor:
        """Return the outputs of ``mixer`` for the new tokens ``x`` (B, T, D), after all earlier ones."""
        start = self.columns.length
        self.columns.append(seq)
        self.x = x if self.x is None or start == 0 else torch.cat((self.x[:, :start], x), 1)
        stop = self.columns.length
        whole = Sequence(
            self.columns.positions[:, :stop],
            self.columns.segments[:, :stop],
            start=0 if self.columns.plain else None,
            gapless=self.columns.plain,
        )
        return mixer(self.x, whole)[:, start:]

    def select(self, rows: Tensor) -> "Replay":
        """Return a state of only these rows."""
        chosen = Replay.__new__(Replay)
        chosen.x = None if self.x is None else self.x[rows]
        chosen.columns = self.columns.select(rows)
        return chosen

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` columns."""
        check_truncation(length, self.columns.length)
        self.columns.length = length

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return (0 if self.x is None else self.x.nbytes) + self.columns.nbytes
