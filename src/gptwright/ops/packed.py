"""Weights of 8 and 4 bits: how they are packed, and how they become numbers again.

8 bits: one scale a row, w = scale q. 4 bits: rows are cut into groups of 32 with a scale and an offset each,
w = scale q + offset. In a group's 16 bytes, byte j holds element j in its low half and element j + 16 in its high one.
Groups as in Dettmers and Zettlemoyer, 2022, https://arxiv.org/abs/2212.09720.

Shapes: N outputs, K inputs, G groups of a row (K / 32).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gptwright.errors import GptwrightError

GROUP = 32
"""Elements of a row that share a scale and an offset at 4 bits."""
BITS = (8, 4)
"""The widths that weights can be packed to."""
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""Shares of a group's range that are tried at 4 bits: cutting off the extremes serves the many in between."""
_AT_ONCE = 1 << 22
"""Elements packed at once, so that the temporary copies stay small."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix (N, K) of few bits."""

    q: Tensor
    """(N, K) int8 at 8 bits; (N, K / 2) uint8 at 4."""
    scale: Tensor
    """(N,) fp32 at 8 bits; (N, G) bf16 at 4."""
    offset: Tensor | None = None
    """(N, G) bf16 at 4 bits; None at 8."""

    @property
    def bits(self) -> int:
        """Bits of an element: 8 or 4."""
        return 8 if self.offset is None else 4

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.q.shape[0], self.q.shape[1] * (8 // self.bits)

    @property
    def nbytes(self) -> int:
        """Bytes held, scales and offsets included."""
        return sum(part.nbytes for part in (self.q, self.scale, self.offset) if part is not None)

    def rows(self, ids: Tensor) -> "Packed":
        """Return the rows that ``ids`` (n,) name.

        Raises:
            IndexError: there is no such row.
        """
        offset = None if self.offset is None else self.offset.index_select(0, ids)
        return Packed(self.q.index_select(0, ids), self.scale.index_select(0, ids), offset)

    def between(self, start: int, stop: int) -> "Packed":
        """Return the rows from ``start`` to ``stop``, without copying."""
        offset = None if self.offset is None else self.offset[start:stop]
        return Packed(self.q[start:stop], self.scale[start:stop], offset)


def packable(columns: int, bits: int) -> bool:
    """Whether a matrix with so many columns can be packed to ``bits``."""
    return bits == 8 or columns % GROUP == 0


def check_bits(bits: int) -> None:
    """Refuse a width that there is no packing for.

    Raises:
        GptwrightError: it is not 8 or 4.
    """
    if bits not in BITS:
        raise GptwrightError(f"bits is {bits}, and weights are packed to 8 or 4 bits; choose one of the two")


def pack(weight: Tensor, bits: int) -> Packed:
    """Return ``weight`` (N, K) rounded to ``bits``; at 4 bits K must be a multiple of 32.

    Raises:
        GptwrightError: the width is unknown, or an element is not finite.
    """
    check_bits(bits)
    if not bool(torch.isfinite(weight).all()):
        raise GptwrightError("the matrix has an element that is not finite, and no few bits can stand for it")
    method = _pack8 if bits == 8 else _pack4
    rows = max(1, _AT_ONCE // max(1, weight.shape[1]))
    parts = [method(part.float()) for part in weight.detach().split(rows)]
    q, scale = torch.cat([part.q for part in parts]), torch.cat([part.scale for part in parts])
    offsets = [part.offset for part in parts if part.offset is not None]
    return Packed(q, scale, torch.cat(offsets) if offsets else None)


def unpack(packed: Packed, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the matrix (N, K) in ``dtype``; the readable reference of every kernel."""
    if packed.offset is None:
        return (packed.q.float() * packed.scale[:, None]).to(dtype)
    q = nibbles(packed).float()  # (N, G, 32)
    return (q * packed.scale[..., None].float() + packed.offset[..., None].float()).flatten(1).to(dtype)


def nibbles(packed: Packed) -> Tensor:
    """Return the numbers 0 to 15 that a matrix of 4 bits holds, uint8 (N, G, 32)."""
    pairs = packed.q.unflatten(1, (-1, GROUP // 2))  # (N, G, 16)
    return torch.cat((pairs & 15, pairs >> 4), -1)


def _pack8(weight: Tensor) -> Packed:
    scale = weight.abs().amax(1) / 127  # (N,)
    return Packed((weight / _divisor(scale)[:, None]).round().clamp(-127, 127).to(torch.int8), scale)


def _pack4(weight: Tensor) -> Packed:
    groups = weight.unflatten(1, (-1, GROUP))  # (N, G, 32)
    low, high = groups.aminmax(dim=-1)
    middle, half = (low + high) / 2, (high - low) / 2
    best = _Choice(groups, (high - low) / 15, low)
    for share in SHRINK[1:]:
        best.offer(2 * share * half / 15, middle - share * half)
    for _ in range(2):
        best.offer(*_fitted(groups, best.q))
    return Packed((best.q[..., :16] | best.q[..., 16:] << 4).flatten(1), best.scale, best.offset)


class _Choice:
    """The scale and offset of each group with the least squared error so far, in bf16 as they are kept."""

    def __init__(self, groups: Tensor, scale: Tensor, offset: Tensor) -> None:
        self.groups = groups  # (N, G, 32)
        self.scale, self.offset = scale.bfloat16(), offset.bfloat16()  # (N, G)
        self.q, self.error = self._rounded(self.scale, self.offset)

    def offer(self, scale: Tensor, offset: Tensor) -> None:
        """Take another scale and offset (N, G) where they serve a group better."""
        scale, offset = scale.bfloat16(), offset.bfloat16()
        q, error = self._rounded(scale, offset)
        better = error < self.error
        self.scale, self.offset = torch.where(better, scale, self.scale), torch.where(better, offset, self.offset)
        self.q, self.error = torch.where(better[..., None], q, self.q), torch.where(better, error, self.error)

    def _rounded(self, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest nibbles uint8 (N, G, 32), and their squared error (N, G)."""
        step, start = scale.float()[..., None], offset.float()[..., None]
        q = ((self.groups - start) / _divisor(step)).round().clamp(0, 15)
        return q.to(torch.uint8), (q * step + start - self.groups).square().sum(-1)


def _fitted(groups: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and offset (N, G) that least squares give for chosen nibbles ``q`` (N, G, 32)."""
    level = q.float()
    mean, target = level.mean(-1, keepdim=True), groups.mean(-1, keepdim=True)
    spread = (level - mean).square().sum(-1)
    scale = ((level - mean) * (groups - target)).sum(-1) / _divisor(spread)
    return scale, target[..., 0] - scale * mean[..., 0]


def _divisor(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1, scale)  # all elements are alike: any divisor will do
