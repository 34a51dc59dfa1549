"""A cache of everything seen, for softmax attention.

Shapes: B batch, T new tokens, L capacity, S tokens seen, K key-value heads, d head width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gptwright.nn.state.base import Columns, check_truncation, grown, round_up
from gptwright.ops.decode_attention import store
from gptwright.ops.sequence import Sequence


class KeyValueCache:
    """Keys and values of every token seen (B, K, L, d), for softmax attention.

    With ``joined`` a token's value lies behind its key: together they are one vector, (B, K, L, d + e) in `both`.
    """

    MANY = True

    def __init__(
        self,
        batch: int,
        heads: int,
        length: int,
        width: int,
        value_width: int | None = None,
        *,
        joined: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        room, self.width = (batch, heads, round_up(length)), width
        widths = [width, value_width or width]
        widths = [sum(widths)] if joined else widths
        self._parts = [torch.zeros(*room, each, device=device, dtype=dtype) for each in widths]
        self.columns = Columns(batch, room[2], device)

    def _made(self, parts: Iterable[Tensor], columns: Columns) -> "KeyValueCache":
        made = KeyValueCache.__new__(KeyValueCache)
        made.width, made.columns, made._parts = self.width, columns, list(parts)
        return made

    @property
    def k(self) -> Tensor:
        """(B, K, L, d): keys, and room for more."""
        return self._parts[0][..., : self.width]

    @property
    def v(self) -> Tensor:
        """(B, K, L, e): values, and room for more."""
        return self._parts[1] if len(self._parts) == 2 else self._parts[0][..., self.width :]

    @property
    def both(self) -> Tensor:
        """(B, K, L, d + e): keys with their values behind them, where they are ``joined``."""
        return self._parts[0]

    def append(self, k: Tensor, v: Tensor, seq: Sequence) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take in new keys and values (B, K, T, d); return all so far (B, K, S, d) and the mask (B, T, S)."""
        return *self.write(k, v, seq), self.columns.mask(seq)

    def write(self, k: Tensor, v: Tensor, seq: Sequence) -> tuple[Tensor, Tensor]:
        """Take in new keys and values (B, K, T, d) and return all so far (B, K, S, d)."""
        start, stop = self.columns.length, self.columns.length + k.shape[2]
        self.reserve(stop)
        self.k[:, :, start:stop] = k
        self.v[:, :, start:stop] = v
        self.columns.append(seq)
        return self.k[:, :, :stop], self.v[:, :, :stop]

    def place(self, k: Tensor, v: Tensor, seq: Sequence) -> None:
        """Take in new keys and values of rows that stand at places of their own, for which there is room."""
        store(k.to(self.k.dtype), self.k, seq.positions, self.k.shape[2])
        store(v.to(self.v.dtype), self.v, seq.positions, self.v.shape[2])

    def rows(self, start: int, stop: int) -> "KeyValueCache":
        """Return a cache of some rows, in the same memory."""
        return self._made((x[start:stop] for x in self._parts), self.columns.rows(start, stop))

    def seek(self, length: int) -> None:
        """Say that every row holds the first ``length`` tokens of its only document."""
        self.columns.seek(length)

    def take(self, row: int, other: "KeyValueCache", source: int, length: int) -> None:
        """Copy to ``row`` the first ``length`` tokens of row ``source`` of another cache."""
        for own, given in zip(self._parts, other._parts, strict=True):
            own[row, :, :length] = given[source, :, :length]

    def reserve(self, length: int) -> None:
        """Have room for ``length`` tokens in every row."""
        if length > self.k.shape[2]:
            self._parts = [grown(x, length, dim=2) for x in self._parts]
            self.columns.reserve(length)

    def keeps(self, seen: int, length: int) -> bool:
        """Say yes: every token is kept."""
        return length <= seen

    @property
    def positions(self) -> Tensor:
        """(B, S): where each key stands."""
        return self.columns.positions[:, : self.columns.length]

    def select(self, rows: Tensor) -> "KeyValueCache":
        """Return a cache of only these rows."""
        return self._made((x[rows] for x in self._parts), self.columns.select(rows))

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` columns."""
        check_truncation(length, self.columns.length)
        self.columns.length = length

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(x.nbytes for x in self._parts) + self.columns.nbytes
