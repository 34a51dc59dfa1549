"""The decode states of a whole model: one a layer, and the clock of every row."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gptwright.nn.state import State
from gptwright.ops.sequence import Clock, Sequence


class ModelStates:
    """One decode state a layer, owned by the caller; iterate or index it to reach them.

    Feed the same object to ``model(ids, states=...)`` any number of times, any number of tokens at a time.
    """

    def __init__(self, layers: list[State], batch: int, device: torch.device | str | None) -> None:
        self.layers = layers
        self.batch = batch
        self.length = 0
        self.plain = True
        zeros = torch.zeros(batch, dtype=torch.long, device=device)
        self._clock = Clock(zeros, zeros)
        self._history: list[Sequence] = []

    def describe(self, length: int, padding_mask: Tensor | None, segments: Tensor | None) -> Sequence:
        """Return the sequence of the next ``length`` tokens of every row."""
        device = self._clock.position.device
        if segments is not None:
            return Sequence.packed(segments, after=self.clock)
        if padding_mask is not None and not bool(padding_mask.all()):
            return Sequence.padded(padding_mask, after=self.clock)
        if self.plain:
            return Sequence.plain(self.batch, length, start=self.length, device=device)
        real = torch.ones(self.batch, length, dtype=torch.bool, device=device)
        return Sequence.padded(real, after=self.clock)

    @property
    def clock(self) -> Clock:
        """Where the next token of each row stands."""
        if self.plain:
            ones = torch.ones(self.batch, dtype=torch.long, device=self._clock.position.device)
            return Clock(ones * self.length, ones) if self.length else self._clock
        return self._clock

    def advance(self, seq: Sequence) -> None:
        """Move the clock past ``seq``, which the layers have just seen."""
        if self.plain and seq.start == self.length:
            self._history.append(seq)
            self.length += len(seq)
            return
        before, after = self.clock, seq.clock()
        seen = after.segment > 0
        self.plain = False
        self._clock = Clock(
            torch.where(seen, after.position, before.position),
            torch.where(seen, after.segment, before.segment),
        )
        self._history.append(seq)
        self.length += len(seq)

    def select(self, rows: Tensor | list[int]) -> "ModelStates":
        """Return the states of only these rows, in this order; a row may come twice."""
        rows = torch.as_tensor(rows, device=self._clock.position.device)
        chosen = ModelStates([layer.select(rows) for layer in self.layers], len(rows), rows.device)
        chosen.length, chosen.plain = self.length, self.plain
        chosen._clock = Clock(*(x[rows] for x in self._clock))
        chosen._history = [Sequence(s.positions[rows], s.segments[rows], s.start, s.gapless) for s in self._history]
        return chosen

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` columns fed so far.

        Raises:
            Unsupported: a layer's state cannot go back; the message says why. Nothing has changed then.
        """
        for layer in self.layers:
            layer.select(torch.arange(0)).truncate(length)  # an empty twin refuses first, before any state changes
        for layer in self.layers:
            layer.truncate(length)
        if self.plain:
            self.length = length
            return
        positions = torch.cat([seq.positions for seq in self._history], 1)[:, :length]
        segments = torch.cat([seq.segments for seq in self._history], 1)[:, :length]
        kept = Sequence(positions, segments)
        self._history, self.length = [kept], length
        self._clock = kept.clock() if length else Clock(*(torch.zeros_like(x) for x in self._clock))

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[State]:
        return iter(self.layers)

    def __getitem__(self, layer: int) -> State:
        return self.layers[layer]
