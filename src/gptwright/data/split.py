"""Which text validates: decided by the text itself, so that it is the same on every machine."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gptwright.data.base import Source
from gptwright.data.contracts import Progress, SplitName
from gptwright.errors import DataError

_SPACE = 1 << 64  # document hashes are below this
_TELL_EVERY = 1 << 18  # characters between two calls of progress


@dataclass(frozen=True)
class Split:
    """A source cut in two.

    Several documents: those whose hash is below ``threshold`` validate, so equal documents stay together and
    a document keeps its side when others are added. One document: its first ``cut`` characters train.
    """

    source: Source
    characters: int
    """Characters of all documents together."""
    threshold: int
    cut: int | None

    @property
    def with_eot(self) -> bool:
        """Whether documents need an end-of-text token between them."""
        return self.cut is None

    def texts(self, part: SplitName | str) -> Iterator[str]:
        """Yield the documents of ``train`` or ``val``, or of ``all``."""
        for text in self.source.documents():
            if self.cut is not None and part != "all":
                text = text[: self.cut] if part == "train" else text[self.cut :]
                yield text
            elif part == "all" or self._validates(text) == (part == "val"):
                yield text

    def _validates(self, text: str) -> bool:
        return document_hash(text) < self.threshold


def document_hash(text: str) -> int:
    """Return a hash of a document, uniform in 0 .. 2**64 - 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def split(source: Source, val_fraction: float, progress: Progress | None = None) -> Split:
    """Read the source once and decide which documents (of a single one: which part) validate.

    Raises:
        DataError: there is no text, or one side would be empty.
    """
    hashes, documents, characters = _Extremes(int(val_fraction * _SPACE)), 0, 0
    tell = teller(progress, "read", None)
    for text in source.documents():
        documents += 1
        characters += len(text)
        hashes.add(document_hash(text))
        tell(len(text))
    if not characters:
        raise DataError(f"data.source '{source.config.source}' is empty: it holds no text to learn from")
    if documents == 1:
        return Split(source, characters, 0, _cut(source, characters, val_fraction))
    return Split(source, characters, _threshold(source, hashes, documents), None)


def _cut(source: Source, characters: int, val_fraction: float) -> int:
    cut = int(characters * (1 - val_fraction))
    if 0 < cut < characters:
        return cut
    raise DataError(
        f"data.source '{source.config.source}' is one document of {characters} characters, and val_fraction "
        f"{val_fraction:g} of it leaves the {'validation' if cut else 'training'} split empty: give more "
        "text or another data.val_fraction"
    )


def _threshold(source: Source, hashes: "_Extremes", documents: int) -> int:
    if hashes.least == hashes.most:
        raise DataError(
            f"all {documents} documents of data.source '{source.config.source}' are the same text, and a "
            "document is never both learnt from and validated on: give another source"
        )
    if not hashes.below:
        return hashes.least + 1  # a small source by chance has none: its least one validates
    return hashes.wanted if hashes.above else hashes.most


class _Extremes:
    """The least and greatest hash, and whether some lie on each side of the wanted threshold."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.least, self.most = _SPACE, -1
        self.below = self.above = False

    def add(self, value: int) -> None:
        self.least, self.most = min(self.least, value), max(self.most, value)
        self.below |= value < self.wanted
        self.above |= value >= self.wanted


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
