"""A ring of the latest positions, for sliding-window attention.

Shapes: B batch, T new tokens, K key-value heads, d head width.
"""

from typing import Any

import torch
from torch import Tensor

from gptwright.errors import Unsupported
from gptwright.nn.state.base import check_truncation
from gptwright.ops.decode_attention import store
from gptwright.ops.sequence import Sequence, visible


class RingCache:
    """Keys and values of the latest ``window`` positions of each row, for sliding-window attention.

    The place of a token is its position modulo the window, so rows may run at different clocks and
    padding is never stored.
    """

    MANY = False

    def __init__(self, batch: int, heads: int, window: int, width: int, *, device: Any = None, dtype: Any = None):
        shape = (batch, heads, window + 1, width)  # the last slot takes what is not to be kept
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.positions = torch.zeros(batch, window + 1, dtype=torch.long, device=device)
        self.segments = torch.full((batch, window + 1), -1, dtype=torch.long, device=device)
        self.columns = torch.zeros_like(self.positions)
        self.complete = True  # whether every real token fed so far is still here
        self.window, self.length = window, 0

    def append(self, k: Tensor, v: Tensor, seq: Sequence) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take in new keys and values (B, K, T, d); return those in reach, mask (B, T, S) and positions (B, S)."""
        keys = torch.cat((self.k[:, :, :-1], k), 2)
        values = torch.cat((self.v[:, :, :-1], v), 2)
        positions = torch.cat((self.positions[:, :-1], seq.positions), 1)
        segments = torch.cat((self.segments[:, :-1], seq.segments), 1)
        mask = visible(seq, positions, segments, self.window)
        self.write(k, v, seq)
        return keys, values, mask, positions

    def in_order(self, k: Tensor, v: Tensor, seq: Sequence) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take in new keys and values of rows that all stand at ``seq.start``; return those in reach by position.

        Returns:
            Keys and values (B, K, window + T, d), their segments and their positions (B, window + T).
        """
        assert seq.start is not None
        slots = (torch.arange(self.window, device=k.device) + seq.start) % self.window  # oldest first
        keys = torch.cat((self.k[:, :, slots], k), 2)
        values = torch.cat((self.v[:, :, slots], v), 2)
        segments = torch.cat((self.segments[:, slots], seq.segments), 1)
        positions = torch.cat((self.positions[:, slots], seq.positions), 1)
        self.write(k, v, seq)
        return keys, values, segments, positions

    def write(self, k: Tensor, v: Tensor, seq: Sequence) -> None:
        """Keep, of the new tokens, the last ``window`` of each row's last document."""
        runs = seq.runs()
        left = (seq.real & (runs == runs[:, -1:])).long()
        from_end = left.flip(1).cumsum(1).flip(1)  # 1 at the last real token of the row
        kept = (left > 0) & (from_end <= self.window)
        begins = (seq.real & (seq.positions == 0)).any(1)  # what was kept of an earlier document is out of reach
        self.complete = self.complete and not self._forgets(seq, kept, begins)
        self.segments[begins] = -1
        slots = torch.where(kept, seq.positions % self.window, self.window)  # (B, T)
        index = slots[:, None, :, None].expand_as(k)
        self.k.scatter_(2, index, k)
        self.v.scatter_(2, index, v)
        self.positions.scatter_(1, slots, seq.positions)
        self.segments.scatter_(1, slots, seq.segments)
        columns = torch.arange(self.length, self.length + len(seq), device=slots.device)
        self.columns.scatter_(1, slots, columns.expand_as(slots))
        self.segments[:, self.window] = -1
        self.length += len(seq)

    def _forgets(self, seq: Sequence, kept: Tensor, begins: Tensor) -> bool:
        if seq.start is not None:
            return seq.start + len(seq) > self.window
        lost = (seq.real & ~kept) | (seq.positions >= self.window)
        return bool(lost.any()) or bool((begins & (self.segments > 0).any(1)).any())

    def place(self, k: Tensor, v: Tensor, seq: Sequence) -> None:
        """Take in the next key and value of rows that stand at places of their own."""
        store(k.to(self.k.dtype), self.k, seq.positions, self.window)
        store(v.to(self.v.dtype), self.v, seq.positions, self.window)

    def rows(self, start: int, stop: int) -> "RingCache":
        """Return a cache of some rows, in the same memory."""
        chosen = RingCache.__new__(RingCache)
        chosen.k, chosen.v = self.k[start:stop], self.v[start:stop]
        chosen.positions, chosen.segments = self.positions[start:stop], self.segments[start:stop]
        chosen.columns = self.columns[start:stop]
        chosen.window, chosen.length, chosen.complete = self.window, self.length, self.complete
        return chosen

    def seek(self, length: int) -> None:
        """Say that every row holds the latest of the first ``length`` tokens of its only document."""
        slots = torch.arange(self.window, device=self.k.device)
        held = length - 1 - (length - 1 - slots) % self.window  # the position that each slot holds; negative: none yet
        self.positions[:, :-1], self.columns[:, :-1] = held.clamp(min=0), held.clamp(min=0)
        self.segments[:, :-1] = torch.where(held >= 0, 1, -1)
        self.length, self.complete = length, length <= self.window

    def take(self, row: int, other: "RingCache", source: int, length: int) -> None:
        """Copy to ``row`` what row ``source`` of another ring holds."""
        del length
        for own, given in ((self.k, other.k), (self.v, other.v)):
            own[row] = given[source]

    def reserve(self, length: int) -> None:
        """Do nothing: the size is fixed."""

    def keeps(self, seen: int, length: int) -> bool:
        """Say whether nothing has been written over that the first ``length`` tokens would need."""
        return length == seen or (length <= seen <= self.window)

    def select(self, rows: Tensor) -> "RingCache":
        """Return a cache of only these rows."""
        chosen = RingCache.__new__(RingCache)
        chosen.k, chosen.v = self.k[rows], self.v[rows]
        chosen.positions, chosen.segments = self.positions[rows], self.segments[rows]
        chosen.columns = self.columns[rows]
        chosen.window, chosen.length, chosen.complete = self.window, self.length, self.complete
        return chosen

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` columns; refused once older ones have been written over."""
        check_truncation(length, self.length)
        if length == self.length:
            return
        if not self.complete:
            raise Unsupported(
                f"a window of {self.window} tokens has written over what it would need to go back from "
                f"{self.length} to {length} tokens; start again from an empty state"
            )
        self.segments[self.columns >= length] = -1
        self.length = length

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(x.nbytes for x in (self.k, self.v, self.positions, self.segments, self.columns))
