"""What rows of a decoder have been fed, so that a prompt that begins alike need not be read again."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

from gptwright.errors import GptwrightError
from gptwright.model.decoder import Decoder

Reuse = Literal["chunks", "all", "none"]


class Prefixes:
    """The tokens of every row, those that have ended included until their row is taken.

    What is taken over was computed as it would be again: whole chunks of prompts, cut where they always are. With
    ``all`` it may be any tokens, also ones that were written one by one; their last bits may differ.
    """

    def __init__(self, decoder: Decoder, chunk: int, reuse: Reuse) -> None:
        if reuse not in ("chunks", "all", "none"):
            raise GptwrightError(f"reuse is '{reuse}', and must be chunks, all or none")
        self.decoder, self.chunk, self.reuse = decoder, chunk, reuse
        self._ids: list[list[int]] = [[] for _ in range(decoder.rows)]
        self._read = [0] * decoder.rows  # how many of them were read in chunks

    def take_over(self, row: int, ids: Sequence[int]) -> int:
        """Make a row ready for a prompt; return how many of its first ids need not be fed any more."""
        shared = [self._shared(other, ids) for other in range(self.decoder.rows)]
        found = max(shared)
        if found:
            self.copy(row if shared[row] == found else shared.index(found), row, found)
        else:
            self.clear(row)
        return found

    def _shared(self, row: int, ids: Sequence[int]) -> int:
        """Return how many of the first ``ids`` a row can give."""
        if self.reuse == "none":
            return 0
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._ids[row], ids, strict=False)))
        alike = min(alike, len(ids) - 1)  # the last one is fed for its logits
        if self.reuse == "chunks":
            alike = min(alike, self._read[row]) // self.chunk * self.chunk
        return alike if alike and self.decoder.can_copy(row, alike) else 0

    def copy(self, source: int, target: int, length: int) -> None:
        """Give a row the first ``length`` tokens of another, or cut it to them."""
        self.decoder.copy(source, target, length)
        self._ids[target] = self._ids[source][:length]
        self._read[target] = min(self._read[source], length)

    def move(self, source: int, target: int) -> None:
        """Put a row in the place of another."""
        self.copy(source, target, self.decoder.lengths[source])
        self.clear(source)

    def clear(self, row: int) -> None:
        """Make a row empty."""
        self.decoder.clear(row)
        self._ids[row], self._read[row] = [], 0

    def read(self, row: int, ids: Sequence[int]) -> None:
        """Take note of a chunk of a prompt that was fed to a row."""
        if self._read[row] == len(self._ids[row]):
            self._read[row] += len(ids)
        self._ids[row] += ids

    def fed(self, row: int, ids: Sequence[int]) -> None:
        """Take note of tokens that were fed to a row as they were written."""
        self._ids[row] += ids
