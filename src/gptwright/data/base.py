"""The contract of a source of text, and the readers that say exactly what is wrong with a file."""

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from gptwright.data.config import PartConfig
from gptwright.data.formats import Format, flagged
from gptwright.errors import DataError

BLOCK = 1 << 20  # bytes of a text file read at once

_WORD_END = re.compile(r"[!-~\u3001-\ud7ff\w](?=[ \n])")  # no tokenizer of ours looks across: see tokenizer/kinds/bpe


class Piece(NamedTuple):
    """A part of a document; the pieces up to one that is ``last`` are one document, which is never empty."""

    text: str
    last: bool = True
    """Whether the document ends with it."""
    learn: bool = True
    """Whether its tokens count in the loss. Where this changes, tokens begin anew."""
    marked: tuple[tuple[int, int], ...] | None = None
    """Of a whole document with special tokens in its text: the stretches that count in the loss."""


class Source(ABC):
    """A stream of documents that can be read again from the start, a piece at a time.

    ``name`` is short and fit for a folder name; ``notes`` says what was left out, for the user; ``where`` is the
    setting that named it.
    """

    name: str

    def __init__(self, part: PartConfig, format: Format, where: str = "data.source") -> None:
        self.part, self.format, self.where = part, format, where
        self.notes: list[str] = []

    @classmethod
    @abstractmethod
    def accepts(cls, source: str) -> bool:
        """Say whether ``source`` names this kind."""

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """Yield the documents in pieces, always in the same order; empty documents are left out.

        Only a piece at a time is in memory, however long a document is.

        Raises:
            DataError: something cannot be read; it is named.
        """

    def documents(self) -> Iterator[str]:
        """Yield each document whole, for those who have the memory."""
        held: list[str] = []
        for piece in self.pieces():
            held.append(piece.text)
            if piece.last:
                yield "".join(held)
                held.clear()

    @property
    @abstractmethod
    def fingerprint_hint(self) -> dict[str, Any]:
        """Cheap facts (path, size, time of change) that change when the text does."""

    def __str__(self) -> str:
        return f"{self.where} '{self.part.source}'"

    def _text_only(self) -> None:
        """Refuse formats that need rows.

        Raises:
            DataError: the format is not text.
        """
        if not self.format.is_text:
            keys = " and ".join(f"'{field}'" for field in self.format.fields)
            raise DataError(
                f"{self} is plain text, and data.format {self.format.config.format} needs rows with {keys}: give a "
                ".jsonl file, or set data.format=text"
            )


class FileSource(Source):
    """A source that lies in one file or folder."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, part: PartConfig, format: Format, where: str = "data.source") -> None:
        super().__init__(part, format, where)
        self.path = Path(part.source).expanduser()
        self.name = self.path.resolve().stem or "text"

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Say whether the name ends as this kind's files do."""
        return Path(source).suffix.lower() in cls.suffixes

    @property
    def fingerprint_hint(self) -> dict[str, Any]:
        """The path, size and time of change of the file."""
        return file_facts(self.path)


def file_facts(path: Path) -> dict[str, Any]:
    """Return what `Source.fingerprint_hint` says of one file.

    Raises:
        DataError: it cannot be looked at.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    return {"path": str(path.resolve()), "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def row_pieces(rows: Iterable[tuple[str, Mapping[str, Any]]], format: Format) -> Iterator[Piece]:
    """Yield the pieces of the documents that rows, each with its place, mean in ``format``."""
    for place, row in rows:
        for span, last in flagged(format.spans(row, place)):
            yield Piece(span.text, last, span.learn, span.marked)


def text_pieces(path: Path) -> Iterator[Piece]:
    """Yield a text file as one document, its characters as they are, newlines too, without a byte-order mark.

    Pieces end at the end of a word where there is one near.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    held = ""
    for text in _decoded(path):
        if held:
            cut = _last_word_end(held)
            yield Piece(held[:cut], last=False)
            held = held[cut:] + text
        else:
            held = text
    if held:
        yield Piece(held)


def _last_word_end(text: str) -> int:
    """Return where the last word but a few ends, or the length of a text without any near its end."""
    found = _WORD_END.search(text, max(0, len(text) - 4096))
    return found.end() if found else len(text)


def _decoded(path: Path) -> Iterator[str]:
    rest, offset = b"", 0
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                content = rest + block
                whole = _whole(content)
                if text := decode(content[:whole], path, offset):
                    yield text
                rest, offset = content[whole:], offset + whole
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if rest:
        yield decode(rest, path, offset)


def _whole(content: bytes) -> int:
    """Return how many bytes come before a last character that goes on in the next block."""
    for back in range(1, min(4, len(content) + 1)):
        byte = content[-back]
        if byte & 0xC0 != 0x80:
            needs = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(content) - back if needs > back else len(content)
    return len(content)


def decode(content: bytes, path: Path, offset: int) -> str:
    """Decode strict UTF-8 from byte ``offset`` of ``path``; a mark at the file's start is dropped.

    Raises:
        DataError: naming the file and the first wrong byte.
    """
    mark = len(codecs.BOM_UTF8) if offset == 0 and content.startswith(codecs.BOM_UTF8) else 0
    try:
        return str(memoryview(content)[mark:], "utf-8")
    except UnicodeDecodeError as error:
        place = offset + mark + error.start
        raise DataError(
            f"{path} is not UTF-8 text: byte 0x{content[mark + error.start]:02X} at offset {place} "
            f"({error.reason}); {_cure(content, path)}"
        ) from None


def _cure(content: bytes, path: Path) -> str:
    looks = "UTF-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "WINDOWS-1252"
    how = "it looks like UTF-16" if looks == "UTF-16" else "if it is text in an older encoding"
    return f"{how}, convert it: iconv -f {looks} -t UTF-8 {path.name} > utf8-{path.name}"
