"""The contract of a source of text, and the readers that say exactly what is wrong with a file."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from gptwright.data.config import DataConfig
from gptwright.errors import DataError


class Source(ABC):
    """A stream of documents that can be read again from the start.

    ``name`` is short and fit for a folder name; ``notes`` says what was left out, for the user.
    """

    name: str

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.notes: list[str] = []

    @classmethod
    @abstractmethod
    def accepts(cls, source: str) -> bool:
        """Say whether ``source`` names this kind."""

    @abstractmethod
    def documents(self) -> Iterator[str]:
        """Yield the documents, always in the same order; empty ones are left out.

        Raises:
            DataError: something cannot be read; it is named.
        """

    @property
    @abstractmethod
    def fingerprint_hint(self) -> dict[str, Any]:
        """Cheap facts (path, size, time of change) that change when the text does."""


class FileSource(Source):
    """A source that lies in one file or folder."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self.path = Path(config.source).expanduser()
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


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def read_text(path: Path) -> str:
    """Return a text file's characters as they are, newlines too, without a byte-order mark.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    return decode(read_bytes(path), path, 0)


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
