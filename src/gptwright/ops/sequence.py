"""What a batch of tokens is: where each token stands, and which document it belongs to.

Shapes: B batch, T query positions, S key positions.

One law for every mixer: *a token sees only its own segment, and only earlier or equal positions in it*.
Segment 0 is padding. Padding on the left, on the right or in between, packed documents, a prompt, a
piece of a prompt and a single decoded token are all the same object.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gptwright.errors import GptwrightError


class Clock(NamedTuple):
    """Where each row of a batch stands after the tokens seen so far."""

    position: Tensor
    """(B,) int64: position that the next token takes."""
    segment: Tensor
    """(B,) int64: document that the next token continues; 0 before any real token."""


@dataclass(frozen=True, eq=False)
class Sequence:
    """Positions and segments of a batch, with the facts about it that allow fast paths.

    Positions count real tokens from the start of their own segment, so padding shifts nothing.
    """

    positions: Tensor
    """(B, T) int64: place of each token in its segment; 0 at padding."""
    segments: Tensor
    """(B, T) int64: document of each token; 0 is padding."""
    start: int | None = None
    """Set when every row is one unpadded segment whose first token here stands at this position."""
    ragged: bool = False
    """True when every row goes on with one unpadded document, each from a place of its own (see `at`)."""
    gapless: bool = True
    """True when no padding stands between two real tokens of a document: index distance is position distance."""
    aux_losses: list[Tensor] = field(default_factory=list)
    """Scalars that components ask to be added to the training loss, already weighted."""
    memo: dict[Any, Any] = field(default_factory=dict)
    """Values that several layers share for this batch."""

    @classmethod
    def plain(cls, batch: int, length: int, *, start: int = 0, device: Any = None) -> "Sequence":
        """Describe rows without padding, all at the same positions ``start .. start + length - 1``."""
        positions = torch.arange(start, start + length, device=device).expand(batch, length)
        return cls(positions, torch.ones_like(positions), start=start)

    @classmethod
    def at(cls, positions: Tensor) -> "Sequence":
        """Describe rows that go on with their only document, each at ``positions`` (B, T) of its own.

        That is decoding: decode states hold the tokens before, each at the place of its position.
        """
        return cls(positions, torch.ones_like(positions), ragged=True)

    @classmethod
    def padded(cls, mask: Tensor, *, after: Clock | None = None) -> "Sequence":
        """Describe rows with padding: ``mask`` (B, T) is True at real tokens."""
        mask = mask.bool()
        if after is None and not torch.compiler.is_compiling() and bool(mask.all()):
            return cls.plain(*mask.shape, device=mask.device)
        segments = mask.long()
        if after is not None:
            segments = segments * after.segment.clamp(min=1)[:, None]
        return cls.packed(segments, after=after)

    @classmethod
    def packed(cls, segments: Tensor, *, after: Clock | None = None) -> "Sequence":
        """Describe rows of several documents: ``segments`` (B, T) int, 0 at padding.

        ``after`` is the clock of the tokens before these; the document it stands in goes on.

        Raises:
            GptwrightError: a document comes back after another one has begun.
        """
        segments = segments.long()
        real, runs = segments > 0, _runs(segments)
        index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
        seen = real.long().cumsum(1) - 1
        starts = real & (seen == 0)
        starts[:, 1:] |= runs[:, 1:] != runs[:, :-1]
        positions = (seen - _latest(starts, seen)) * real
        gapless = False
        if not torch.compiler.is_compiling():  # these facts depend on the data, which a traced graph must not
            _refuse_returning(segments, starts)
            gapless = bool((positions == (index - _latest(starts, index)) * real).all())
        if after is not None:
            first = starts.long().cumsum(1) <= 1
            goes_on = real & first & (segments == after.segment[:, None])
            positions = positions + goes_on * after.position[:, None]
        return cls(positions, segments, gapless=gapless)

    def __len__(self) -> int:
        """Return T, the number of columns."""
        return self.positions.shape[1]

    @property
    def is_causal(self) -> bool:
        """Whether the plain causal mask says all there is to say (one whole segment a row, from its start)."""
        return self.start == 0

    @property
    def real(self) -> Tensor:
        """(B, T) bool: True where a token is not padding."""
        return self.segments > 0

    def clock(self) -> Clock:
        """Return where the next token of each row stands, if these were the first tokens."""
        index = torch.arange(len(self), device=self.positions.device)
        last = torch.where(self.real, index, -1).amax(1)
        at = last.clamp(min=0)[:, None]
        some = last >= 0
        return Clock(
            (self.positions.gather(1, at)[:, 0] + 1) * some,
            self.segments.gather(1, at)[:, 0] * some,
        )

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return ``make()``, computed the first time that ``key`` is asked for in this batch."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    def together(self) -> tuple[Tensor, Tensor]:
        """Return two orders of columns, (B, T) each: real tokens first and padding last, and from there back again."""
        order = self.once("real tokens first", lambda: torch.argsort(~self.real, dim=1, stable=True))
        return order, self.once("as they stood", lambda: torch.argsort(order, dim=1))

    def runs(self) -> Tensor:
        """(B, T) int64 that never falls: number of each token's document; padding counts with a neighbour."""
        return self.once("runs", lambda: _runs(self.segments))

    def visible(self, window: int | None = None) -> Tensor:
        """(B, T, T) bool: which of the tokens here each token here sees."""
        return self.once(("visible", window), lambda: visible(self, self.positions, self.segments, window))


def visible(queries: Sequence, key_positions: Tensor, key_segments: Tensor, window: int | None = None) -> Tensor:
    """(B, T, S) bool: which key each query sees. Padding sees padding, so that its outputs stay finite."""
    distance = queries.positions[:, :, None] - key_positions[:, None, :]
    seen = (queries.segments[:, :, None] == key_segments[:, None, :]) & (distance >= 0)
    return seen if window is None else seen & (distance < window)


def _runs(segments: Tensor) -> Tensor:
    """Number the documents of each row from 0; padding takes the number before it, or else after it."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    last_real = torch.where(segments > 0, index, -1).cummax(1).values
    carried = segments.gather(1, last_real.clamp(min=0)) * (last_real >= 0)
    changed = torch.zeros_like(carried)
    changed[:, 1:] = ((carried[:, 1:] != carried[:, :-1]) & (carried[:, :-1] > 0)).long()
    return changed.cumsum(1)


def _latest(starts: Tensor, values: Tensor) -> Tensor:
    """For each column, the value (rising, from 0) at the latest start so far."""
    return torch.where(starts, values, 0).cummax(1).values


def _refuse_returning(segments: Tensor, starts: Tensor) -> None:
    ordered = segments.sort(1).values
    different = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1 - (segments == 0).any(1).long()
    bad = (starts.sum(1) != different).nonzero()
    if len(bad):
        row = int(bad[0, 0])
        raise GptwrightError(
            f"row {row} of segments names a document again after another one has begun "
            f"({segments[row, :16].tolist()}...); give each document of a row one number, in one piece"
        )
