"""Which documents of token files validate: decided by the ids themselves, as for text by the text.

What is kept of a document is eight bytes, its hash.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from gptwright.data.contracts import SplitName
from gptwright.data.token_files import Block
from gptwright.errors import DataError

_SPACE = 1 << 64  # hashes are below this


@dataclass(frozen=True)
class Sides:
    """Where each document goes, in order."""

    validates: np.ndarray
    """(documents,) bool."""
    cut: int | None = None
    """Of a single document: how many of its ids train; the rest validates."""

    def routed(self, blocks: Iterable[Block]) -> Iterator[tuple[SplitName, Block]]:
        """Yield the documents of each split, in blocks."""
        document = done = 0
        for block in blocks:
            if self.cut is not None:
                yield from _divided(block, self.cut - done)
            else:
                yield from self._apart(block, document)
            document, done = document + len(block.ends), done + len(block.ids)

    def _apart(self, block: Block, document: int) -> Iterator[tuple[SplitName, Block]]:
        number = np.zeros(len(block.ids), dtype=np.int64)  # of each id's document, from the first in the block
        np.add.at(number, block.ends[block.ends < len(number)], 1)
        number = document + np.cumsum(number)
        sides: tuple[tuple[SplitName, bool], ...] = (("train", False), ("val", True))
        for name, side in sides:
            mine = self.validates[number] == side
            if mine.any():
                ended = self.validates[document : document + len(block.ends)] == side
                yield name, Block(block.ids[mine], np.cumsum(mine)[block.ends - 1][ended])


def _divided(block: Block, cut: int) -> Iterator[tuple[SplitName, Block]]:
    """Yield a block of the single document in two, where the cut is in it."""
    count = len(block.ids)
    if cut > 0:
        ends = np.array([cut]) if cut <= count else np.empty(0, np.int64)
        yield "train", Block(block.ids[:cut], ends)
    if cut < count:
        yield "val", Block(block.ids[max(cut, 0) :], block.ends - max(cut, 0))


def by_hash(blocks: Iterable[Block], val_fraction: float, what: str) -> Sides:
    """Read all documents once and let those validate whose hash is below ``val_fraction`` of all hashes.

    At least one is on each side; of a single document the end validates.

    Raises:
        DataError: all documents are alike, or one side would be empty.
    """
    hashes, tokens = _hashes(blocks)
    if len(hashes) == 1:
        cut = int(tokens * (1 - val_fraction))
        if 0 < cut < tokens:
            return Sides(np.zeros(1, dtype=bool), cut)
        raise DataError(
            f"{what} is one document of {tokens} tokens, and {val_fraction:g} of it leaves the "
            f"{'validation' if cut else 'training'} split empty: give a file to validate on, or another fraction"
        )
    if hashes.min() == hashes.max():
        raise DataError(
            f"all {len(hashes)} documents of {what} are the same, and a document is never both learnt from and "
            "validated on: give a file to validate on"
        )
    validates = hashes < np.uint64(min(int(val_fraction * _SPACE), _SPACE - 1))
    if not validates.any():
        validates = hashes == hashes.min()
    if validates.all():
        validates = hashes != hashes.max()
    return Sides(validates)


def _hashes(blocks: Iterable[Block]) -> tuple[np.ndarray, int]:
    """Return the hash of each document, (documents,) uint64, and how many ids there are."""
    found, tokens, digest = array("Q"), 0, hashlib.sha256()
    for block in blocks:
        begin, content = 0, block.ids.astype("<u4")
        for end in block.ends.tolist():
            digest.update(content[begin:end].tobytes())
            found.append(int.from_bytes(digest.digest()[:8], "big"))
            begin, digest = end, hashlib.sha256()
        digest.update(content[begin:].tobytes())
        tokens += len(content)
    return np.frombuffer(found, dtype=np.uint64), tokens
