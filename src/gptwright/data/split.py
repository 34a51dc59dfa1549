"""Which documents train, which validate and which are left out: decided by the text itself.

So it is the same on every machine, and a document keeps its side when others are added. What was decided lies in a
small file, one byte a document, so that later reading needs no memory of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptwright.data.base import Piece, Source
from gptwright.data.census import Census, count, drop_duplicates, teller
from gptwright.data.contracts import Progress, SplitName
from gptwright.errors import DataError

TRAIN, VAL, OUT, CUT = range(4)
"""What is done with a document; `CUT`: its beginning trains, its end validates."""

_SPACE = 1 << 64  # document hashes are below this


@dataclass(frozen=True)
class Part:
    """A source whose documents have found their sides."""

    source: Source
    sides: Path
    """The file with one byte a document."""
    documents: int
    """Documents that are kept."""
    characters: int
    """Characters of those."""
    duplicates: int
    """Documents left out because they were there before."""
    cut: int | None
    """Where there is a single document: how many of its characters train."""

    def routed(self) -> Iterator[tuple[SplitName, Piece]]:
        """Yield the pieces of all documents that are kept, each with its split, in the order of the source.

        Raises:
            DataError: there are more documents than there were.
        """
        with self.sides.open("rb") as file:
            sides = (side for block in iter(lambda: file.read(1 << 16), b"") for side in block)
            side, place = None, 0
            for piece in self.source.pieces():
                side = next(sides, None) if side is None else side
                if side is None:
                    raise changed(self.source)
                if side == CUT:
                    yield from self._divided(piece, place)
                elif side != OUT:
                    yield "val" if side == VAL else "train", piece
                side, place = (None, 0) if piece.last else (side, place + len(piece.text))

    def _divided(self, piece: Piece, place: int) -> Iterator[tuple[SplitName, Piece]]:
        """Yield a piece that begins at character ``place`` of the single document, in two where the cut is in it."""
        assert self.cut is not None
        before = max(0, self.cut - place)
        if before:
            yield "train", Piece(piece.text[:before], last=before <= len(piece.text))
        if before < len(piece.text):
            yield "val", Piece(piece.text[before:], last=piece.last)

    def facts(self) -> dict[str, Any]:
        """Return what `restored` needs, as plain data."""
        return {name: getattr(self, name) for name in ("documents", "characters", "duplicates", "cut")}


def split(
    sources: Sequence[Source], folder: Path, val_fraction: float, *, dedup: bool, progress: Progress | None = None
) -> list[Part]:
    """Read all sources once and decide what is done with each document.

    Those validate whose hash is below ``val_fraction`` of all hashes. A document has the same hash, and so the same
    side, in every part. Of a single document the end validates.

    Raises:
        DataError: there is no text, or one side would be empty.
    """
    tell = teller(progress, "read", None)
    found = [count(source, folder / f"census-{n}", tell) for n, source in enumerate(sources)]
    if dedup:
        drop_duplicates(found)
    rule = _Rule(int(val_fraction * _SPACE))
    for census in found:
        rule.include(census)
    _refuse_leaks(found)
    parts = [_decide(census, rule, val_fraction, sides_file(folder, n)) for n, census in enumerate(found)]
    for census in found:
        census.file.unlink()
    return parts


def restored(sources: Sequence[Source], folder: Path, facts: Sequence[dict[str, Any]]) -> list[Part]:
    """Return the parts that an earlier attempt had found in ``folder``."""
    return [Part(source, sides_file(folder, n), **facts[n]) for n, source in enumerate(sources)]


def sides_file(folder: Path, number: int) -> Path:
    """Return where the sides of part ``number`` lie."""
    return folder / f"sides-{number}"


def changed(source: Source) -> DataError:
    """Return the error that says that a source did not stay as it was."""
    return DataError(f"{source} changed while it was being read: run it again")


class _Rule:
    """Which hashes validate: those below a threshold, but a small source gets one document on each side at least.

    The exceptions hold for all parts, so that a document in two of them stays on one side.
    """

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.val: set[int] = set()
        self.train: set[int] = set()

    def include(self, census: Census) -> None:
        """Make the exceptions that the documents of ``census`` need."""
        if census.remaining == 1 and census.source.format.is_text:
            return  # it will be cut
        least, most = _SPACE, -1
        for records, kept in census.blocks():
            hashes = records["hash"][kept]
            if hashes.size:
                least, most = min(least, int(hashes.min())), max(most, int(hashes.max()))
        if least == most:
            raise _all_alike(census)
        if least >= self.threshold:
            self.val.add(least)  # by chance none validates: the least one does
        if most < self.threshold:
            self.train.add(most)

    def validates(self, hashes: np.ndarray) -> np.ndarray:
        """Return which of the hashes, (n,) uint64, validate."""
        found = hashes < np.uint64(min(self.threshold, _SPACE - 1))
        for exceptions, side in ((self.val, True), (self.train, False)):
            for value in exceptions:
                found[hashes == np.uint64(value)] = side
        return found


def _decide(census: Census, rule: _Rule, val_fraction: float, file: Path) -> Part:
    """Write the sides of a source's documents into ``file``."""
    single = census.remaining == 1 and census.source.format.is_text
    characters, used = 0, np.zeros(4, dtype=np.int64)
    with file.open("wb") as out:
        for records, kept in census.blocks():
            sides = np.where(rule.validates(records["hash"].astype(np.uint64)), VAL, TRAIN).astype(np.uint8)
            sides = np.where(kept, CUT if single else sides, OUT).astype(np.uint8)
            out.write(sides.tobytes())
            characters += int(records["length"][kept].sum())
            used += np.bincount(sides, minlength=4)
    if not single and not (used[TRAIN] and used[VAL]):
        empty = "validation" if used[TRAIN] else "training"
        raise DataError(
            f"the {empty} split of {census.source} would be empty, since other parts of the mixture hold the same "
            "documents and those stay on one side: give it more text, or join it with another part"
        )
    cut = _cut(census.source, characters, val_fraction) if single else None
    return Part(census.source, file, census.remaining, characters, census.documents - census.remaining, cut)


def _cut(source: Source, characters: int, val_fraction: float) -> int:
    cut = int(characters * (1 - val_fraction))
    if 0 < cut < characters:
        return cut
    raise DataError(
        f"{source} is one document of {characters} characters, and val_fraction "
        f"{val_fraction:g} of it leaves the {'validation' if cut else 'training'} split empty: give more "
        "text or another data.val_fraction"
    )


def _all_alike(census: Census) -> DataError:
    if census.documents == 1:
        return DataError(
            f"{census.source} holds a single example, and one is needed to learn from and another to validate on: "
            "give more"
        )
    return DataError(
        f"all {census.documents} documents of {census.source} are the same text, and a "
        "document is never both learnt from and validated on: give another source"
    )


def _refuse_leaks(found: Sequence[Census]) -> None:
    """Refuse a document that is cut in one part of a mixture and whole in another."""
    single = [census for census in found if census.remaining == 1 and census.source.format.is_text]
    for census in single:
        record = next(records[kept][0] for records, kept in census.blocks() if kept.any())
        for other in found:
            if other not in single and other.holds(record):
                raise DataError(
                    f"the one document of {census.source}, of which the end validates, is in {other.source} too, where "
                    "it would be learnt whole: set data.dedup=true to leave it out there, or take one part out"
                )
