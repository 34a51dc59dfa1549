"""Decode states: what a layer remembers between calls. Born in a component, owned by the caller.

Shapes: B batch, T new tokens, L capacity, S tokens seen, K key-value heads, d head width, D d_model.

A state takes any number of tokens at a time. ``select`` keeps some rows, ``truncate`` forgets the latest
tokens where the mathematics allows it, ``nbytes`` is what it holds.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gptwright.errors import GptwrightError, Unsupported
from gptwright.ops.linear_attention import Memory
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
        if stop > self.positions.shape[1]:
            self._grow(stop)
        self.plain = self.plain and seq.start == self.length
        self.positions[:, self.length : stop] = seq.positions
        self.segments[:, self.length : stop] = seq.segments
        self.length = stop

    def _grow(self, needed: int) -> None:
        self.positions = grown(self.positions, needed, dim=1)
        self.segments = grown(self.segments, needed, dim=1)

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


class KeyValueCache:
    """Keys and values of every token seen (B, K, L, d), for softmax attention."""

    def __init__(self, batch: int, heads: int, length: int, width: int, *, device: Any = None, dtype: Any = None):
        shape = (batch, heads, round_up(length), width)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.columns = Columns(batch, shape[2], device)

    def append(self, k: Tensor, v: Tensor, seq: Sequence) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take in new keys and values (B, K, T, d); return all so far (B, K, S, d) and the mask (B, T, S)."""
        start, stop = self.columns.length, self.columns.length + k.shape[2]
        if stop > self.k.shape[2]:
            self.k, self.v = grown(self.k, stop, dim=2), grown(self.v, stop, dim=2)
        self.k[:, :, start:stop] = k
        self.v[:, :, start:stop] = v
        self.columns.append(seq)
        return self.k[:, :, :stop], self.v[:, :, :stop], self.columns.mask(seq)

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


class RingCache:
    """Keys and values of the latest ``window`` positions of each row, for sliding-window attention.

    The place of a token is its position modulo the window, so rows may run at different clocks and
    padding is never stored.
    """

    def __init__(self, batch: int, heads: int, window: int, width: int, *, device: Any = None, dtype: Any = None):
        shape = (batch, heads, window + 1, width)  # the last slot takes what is not to be kept
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.positions = torch.zeros(batch, window + 1, dtype=torch.long, device=device)
        self.segments = torch.full((batch, window + 1), -1, dtype=torch.long, device=device)
        self.columns = torch.zeros_like(self.positions)
        self.complete = True  # whether every real token fed so far is still here
        self.window, self.length = window, 0

    def append(self, k: Tensor, v: Tensor, seq: Sequence) -> tuple[Tensor, Tensor, Tensor]:
        """Take in new keys and values (B, K, T, d); return those in reach and their mask (B, T, window + T)."""
        keys = torch.cat((self.k[:, :, :-1], k), 2)
        values = torch.cat((self.v[:, :, :-1], v), 2)
        positions = torch.cat((self.positions[:, :-1], seq.positions), 1)
        segments = torch.cat((self.segments[:, :-1], seq.segments), 1)
        mask = visible(seq, positions, segments, self.window)
        self.write(k, v, seq)
        return keys, values, mask

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


class Recurrent:
    """A memory of fixed size, for linear attention."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.segment = torch.zeros(len(memory.k), dtype=torch.long, device=memory.k.device)
        self.length = 0

    def goes_on(self, seq: Sequence) -> Tensor:
        """(B,) bool: whether the first real token of ``seq`` continues the document remembered."""
        first = seq.real.long().argmax(1, keepdim=True)
        return (seq.segments.gather(1, first)[:, 0] == self.segment) | ~seq.real.any(1)

    def update(self, memory: Memory, seq: Sequence) -> None:
        """Remember ``memory`` as the sum up to the last token of ``seq``."""
        self.memory = memory
        last = seq.clock().segment
        self.segment = torch.where(last > 0, last, self.segment)
        self.length += len(seq)

    def select(self, rows: Tensor) -> "Recurrent":
        """Return a state of only these rows."""
        chosen = Recurrent(Memory(*(x[rows] for x in self.memory)))
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
