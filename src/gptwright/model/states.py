"""The decode states of a whole model: one a layer, and the clock of every row."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.nn.state.base import State
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
        self._history: list[tuple[Tensor, Tensor]] = []  # positions and segments (B, T) of what was fed

    def describe(self, length: int, padding_mask: Tensor | None, segments: Tensor | None) -> Sequence:
        """Return the sequence of the next ``length`` tokens of every row."""
        device = self._clock.position.device
        if segments is not None:
            self._refuse_returning(segments)
            return Sequence.packed(segments, after=self.clock)
        if padding_mask is not None and not bool(padding_mask.all()):
            return Sequence.padded(padding_mask, after=self.clock)
        if self.plain:
            return Sequence.plain(self.batch, length, start=self.length, device=device)
        real = torch.ones(self.batch, length, dtype=torch.bool, device=device)
        return Sequence.padded(real, after=self.clock)

    def _refuse_returning(self, segments: Tensor) -> None:
        history = self._plain_history() if self.plain else self._history
        earlier = torch.cat([segment for _, segment in history], 1)
        for row, (new, old, current) in enumerate(zip(segments, earlier, self.clock.segment, strict=True)):
            again = new[torch.isin(new, old) & (new != current) & (new > 0)]
            if len(again):
                raise GptwrightError(
                    f"row {row} of segments names document {int(again[0])} again after document {int(current)} has "
                    "begun; give each document of a row one number, in one piece"
                )

    @property
    def clock(self) -> Clock:
        """Where the next token of each row stands."""
        if self.plain:
            ones = torch.ones(self.batch, dtype=torch.long, device=self._clock.position.device)
            return Clock(ones * self.length, ones) if self.length else self._clock
        return self._clock

    def advance(self, seq: Sequence) -> None:
        """Move the clock past ``seq``, which the layers have just seen."""
        if self.plain and seq.start != self.length:
            self._clock, self._history = self.clock, self._plain_history()
            self.plain = False
        if not self.plain:
            after = seq.clock()
            seen = after.segment > 0
            self._clock = Clock(*(torch.where(seen, new, old) for new, old in zip(after, self._clock, strict=True)))
            self._history.append((seq.positions, seq.segments))
        self.length += len(seq)

    def _plain_history(self) -> list[tuple[Tensor, Tensor]]:
        seq = Sequence.plain(self.batch, self.length, device=self._clock.position.device)
        return [(seq.positions, seq.segments)]

    def select(self, rows: Tensor | list[int]) -> "ModelStates":
        """Return the states of only these rows, in this order; a row may come twice."""
        rows = torch.as_tensor(rows, device=self._clock.position.device)
        chosen = ModelStates([layer.select(rows) for layer in self.layers], len(rows), rows.device)
        chosen.length, chosen.plain = self.length, self.plain
        chosen._clock = Clock(*(x[rows] for x in self._clock))
        chosen._history = [(positions[rows], segments[rows]) for positions, segments in self._history]
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
        positions, segments = (torch.cat(parts, 1)[:, :length] for parts in zip(*self._history, strict=True))
        self._history, self.length = [(positions, segments)], length
        self._clock = Sequence(positions, segments).clock() if length else Clock(*map(torch.zeros_like, self._clock))

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
