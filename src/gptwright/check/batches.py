"""The batches that laws feed: rows with padding on either side and in between, and packed documents.

Shapes: B batch, T tokens.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from gptwright.check.measure import T

SEGMENTS = torch.tensor([[3] * 40 + [1] * 73 + [7] * 1 + [2] * 31 + [0] * 5, [0] * 9 + [1] * 141])
"""Two rows of 150: documents of several lengths, one of a single token, padding at both ends."""


def ragged(rows: int, width: int, side: str, length: int = T) -> Tensor:
    """Return a mask (B, length + width) of rows that end, or begin, with more padding the lower they stand."""
    mask = torch.zeros(rows, length + width, dtype=torch.bool)
    for row in range(rows):
        pad = width * (row + 1) // rows
        starts = {"left": pad, "right": 0}[side]
        mask[row, starts : starts + length + width - pad] = True
    return mask


def holes(rows: int, length: int = T) -> Tensor:
    """Return a mask (B, length) with padding between real tokens."""
    mask = torch.rand(rows, length, generator=torch.Generator().manual_seed(3)) > 0.3
    mask[:, 0] = torch.arange(rows) % 2 == 0
    return mask


def padded(rows: int) -> Iterable[tuple[str, Tensor]]:
    """Yield ``(name, mask)`` for padding on the left, on the right and in between."""
    yield "left-padded", ragged(rows, 9, "left")
    yield "right-padded", ragged(rows, 9, "right")
    yield "padded in between", holes(rows)


def documents(ids: Tensor, segments: Tensor = SEGMENTS) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield ``(ids of one document (1, n), where it stands (B, T) bool)``."""
    for row in range(len(ids)):
        for segment in segments[row].unique().tolist():
            if segment:
                where = torch.zeros_like(segments, dtype=torch.bool)
                where[row] = segments[row] == segment
                yield ids[where][None], where
