"""Every document counted once: its hash and its length in a file beside, so that memory does not grow with the text."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptwright.data.base import Source
from gptwright.data.contracts import Progress
from gptwright.errors import DataError

RECORD = np.dtype([("hash", ">u8"), ("more", ">u8"), ("length", "<u8")])
"""A document: the first 8 bytes of the sha256 of its text, which decide its side; the next 8, with which they decide
what is a duplicate; its characters."""

_BLOCK = 1 << 16  # records looked at together
_TELL_EVERY = 1 << 18  # characters between two calls of progress


@dataclass
class Census:
    """The documents of one source."""

    source: Source
    file: Path
    """Their records, in order."""
    documents: int
    characters: int
    kept: np.ndarray | None = None
    """(documents,) bool: which are not duplicates; None where duplicates are welcome."""

    @property
    def remaining(self) -> int:
        """Documents that are kept."""
        return self.documents if self.kept is None else int(self.kept.sum())

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the records, (n,) of `RECORD`, and which of them are kept, (n,) bool, a block at a time."""
        first = 0
        with self.file.open("rb") as file:
            while content := file.read(_BLOCK * RECORD.itemsize):
                records = np.frombuffer(content, dtype=RECORD)
                kept = np.ones(len(records), dtype=bool)
                if self.kept is not None:
                    kept = self.kept[first : first + len(records)]
                yield records, kept
                first += len(records)

    def holds(self, record: np.void) -> bool:
        """Say whether a document like ``record`` is kept here."""
        return any(
            bool(((records["hash"] == record["hash"]) & (records["more"] == record["more"]) & kept).any())
            for records, kept in self.blocks()
        )


def count(source: Source, file: Path, tell: Callable[[int], None]) -> Census:
    """Read ``source`` once and write a record of each document into ``file``.

    Raises:
        DataError: there is no text.
    """
    documents, characters, length, digest = 0, 0, 0, hashlib.sha256()
    with file.open("wb") as out:
        for piece in source.pieces():
            digest.update(piece.text.encode())
            length += len(piece.text)
            tell(len(piece.text))
            if piece.last:
                out.write(digest.digest()[:16] + length.to_bytes(8, "little"))
                documents, characters = documents + 1, characters + length
                length, digest = 0, hashlib.sha256()
    if not characters:
        raise DataError(f"{source} is empty: it holds no text to learn from")
    return Census(source, file, documents, characters)


def drop_duplicates(found: Sequence[Census]) -> None:
    """Keep the first of equal documents, over all sources in their order; about 60 bytes a document while it works.

    Raises:
        DataError: nothing is left of a source.
    """
    records = np.concatenate([np.fromfile(census.file, dtype=RECORD)[["hash", "more"]] for census in found])
    order = np.lexsort((records["more"], records["hash"]))  # stable: of equal ones, the first comes first
    ordered = records[order]
    kept = np.ones(len(records), dtype=bool)
    kept[order[1:][ordered[1:] == ordered[:-1]]] = False
    for census, part in zip(found, np.split(kept, np.cumsum([one.documents for one in found])[:-1]), strict=True):
        census.kept = part
        if not part.any():
            raise DataError(
                f"{census.source} holds nothing but documents that the parts before it hold too, and data.dedup leaves "
                "those out: take it out of the mixture, or set data.dedup=false"
            )


def teller(progress: Progress | None, stage: str, total: int | None, done: int = 0) -> Callable[[int], None]:
    """Return a function that adds to the count ``done`` and now and then tells ``progress`` of it."""
    told = -_TELL_EVERY

    def tell(more: int) -> None:
        nonlocal done, told
        done += more
        if progress and (done - told >= _TELL_EVERY or done == total):
            told = done
            progress(stage, done, total)

    return tell
