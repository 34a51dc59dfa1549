"""A cache of everything seen, for softmax attention.

Shapes: B batch, T new tokens, L capacity, S tokens seen, K key-value heads, d head width.
"""

from typing import Any

import torch
from torch import Tensor

from gptwright.nn.state.base import Columns, check_truncation, grown, round_up
from gptwright.ops.sequence import Sequence


class KeyValueCache:
    """Keys and values of every token seen (B, K, L, d), for softmax attention."""

    def __init__(
        self,
        batch: int,
        heads: int,
        length: int,
        width: int,
        value_width: int | None = None,
        *,
        device: Any = None,
        dtype: Any = None,
    ):
        room = (batch, heads, round_up(length))
        self.k = torch.zeros(*room, width, device=device, dtype=dtype)
        self.v = torch.zeros(*room, value_width or width, device=device, dtype=dtype)
        self.columns = Columns(batch, room[2], device)

    def append(self, k: Tensor, v: Tensor, seq: Sequence) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take in new keys and values (B, K, T, d); return all so far (B, K, S, d) and the mask (B, T, S)."""
        return *self.write(k, v, seq), self.columns.mask(seq)

    def write(self, k: Tensor, v: Tensor, seq: Sequence) -> tuple[Tensor, Tensor]:
        """Take in new keys and values (B, K, T, d) and return all so far (B, K, S, d)."""
        start, stop = self.columns.length, self.columns.length + k.shape[2]
        if stop > self.k.shape[2]:
            self.k, self.v = grown(self.k, stop, dim=2), grown(self.v, stop, dim=2)
        self.k[:, :, start:stop] = k
        self.v[:, :, start:stop] = v
        self.columns.append(seq)
        return self.k[:, :, :stop], self.v[:, :, :stop]

    @property
    def positions(self) -> Tensor:
        """(B, S): where each key stands."""
        return self.columns.positions[:, : self.columns.length]

    def select(self, rows: Tensor) -> "KeyValueCache":
        """Return a cache of only these rows."""
        chosen = KeyValueCache.__new__(KeyValueCache)
        chosen.k, chosen.v, chosen.columns = self.k[rows], self.v[rows], self.columns.select(rows)
        return chosen

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` columns."""
        check_truncation(length, self.columns.length)
        self.columns.length = length

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.k.nbytes + self.v.nbytes + self.columns.nbytes
