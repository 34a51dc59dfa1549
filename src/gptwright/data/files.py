"""Sources on the disk: a text file, a folder of them, JSONL and Parquet."""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from gptwright.data.base import FileSource, Piece, decode, file_facts, row_pieces, text_pieces
from gptwright.data.formats import Format
from gptwright.errors import DataError

_LOOKED_AT = 8192  # bytes; a NUL among the first ones makes a file binary, as git has it
_BUFFER = 1 << 20  # bytes of a Parquet column read at once; without it, a whole row group would be


class TextFile(FileSource):
    """One file of text is one document."""

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Take whatever no other kind took."""
        del source
        return True

    def pieces(self) -> Iterator[Piece]:
        """Yield the file in pieces."""
        self._text_only()
        yield from text_pieces(self.path)


class Jsonl(FileSource):
    """One JSON object a line; blank lines are passed over."""

    suffixes = (".jsonl", ".ndjson")

    def pieces(self) -> Iterator[Piece]:
        """Yield what each line means."""
        yield from row_pieces(_json_rows(self.path, self.format), self.format)


class Parquet(FileSource):
    """One document a row; needs pyarrow."""

    suffixes = (".parquet",)

    def pieces(self) -> Iterator[Piece]:
        """Yield what each row means."""
        yield from row_pieces(_parquet_rows(self.path, self.format), self.format)


class Folder(FileSource):
    """Every text file below a folder is a document, in sorted order; hidden and binary ones are left out.

    A folder of nothing but ``.jsonl`` or nothing but ``.parquet`` files is read as those.
    """

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Take folders."""
        return Path(source).expanduser().is_dir()

    def pieces(self) -> Iterator[Piece]:
        """Yield the documents of each file.

        Raises:
            DataError: there is no text file, or one cannot be read.
        """
        if not self._files:
            skipped = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise DataError(f"the folder {self.path} holds no text files{skipped}: put .txt files there")
        suffixes = {Path(file).suffix.lower() for file in self._files}
        for file in self._files:
            yield from self._read(Path(file), suffixes)

    def _read(self, path: Path, suffixes: set[str]) -> Iterator[Piece]:
        if suffixes <= set(Jsonl.suffixes):
            yield from row_pieces(_json_rows(path, self.format), self.format)
        elif suffixes <= set(Parquet.suffixes):
            yield from row_pieces(_parquet_rows(path, self.format), self.format)
        else:
            self._text_only()
            yield from text_pieces(path)

    @cached_property
    def _files(self) -> list[str]:
        found = [path for path in _walk(self.path) if os.path.isfile(path)]
        shown = [path for path in found if not _hidden(os.path.relpath(path, self.path))]
        rows = bool(shown) and all(Path(path).suffix.lower() in Parquet.suffixes for path in shown)
        text = shown if rows else [path for path in shown if not _binary(path)]
        counts = (("hidden", len(found) - len(shown)), ("binary", len(shown) - len(text)))
        self.notes += [f"{kind} files left out: {count}" for kind, count in counts if count]
        return text

    @property
    def fingerprint_hint(self) -> dict[str, Any]:
        """The number of files that are read, and a hash of the facts of each."""
        digest = hashlib.sha256()
        for path in self._files:
            digest.update(json.dumps(file_facts(Path(path))).encode())
        return {"path": str(self.path.resolve()), "files": len(self._files), "facts": digest.hexdigest()}


def _json_rows(path: Path, format: Format) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of each line of ``path``.

    Raises:
        DataError: a line is not UTF-8, not JSON or not an object.
    """
    offset = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = decode(line, path, offset)
                offset += len(line)
                if text.strip():
                    place = f"line {number} of {path}"
                    yield place, _object(text, place, format)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _object(line: str, place: str, format: Format) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON ({error}): each line must be one JSON object") from None
    except RecursionError:
        raise DataError(f"{place} is nested too deeply to be read: each line must be one JSON object") from None
    if not isinstance(row, dict):
        keys = " and ".join(f"'{field}'" for field in format.fields)
        raise DataError(f"{place} is a JSON {type(row).__name__}, not an object with the key {keys}")
    return row


def _parquet_rows(path: Path, format: Format) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the columns of each row of ``path``; a text that is missing is passed over.

    Raises:
        DataError: pyarrow is missing, the file is not Parquet or has no such columns.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"reading {path} needs pyarrow, which is not installed: pip install 'gptwright[data]'"
        ) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as table:
            _check_columns(path, format, table.schema_arrow)
            for rows in table.iter_batches(batch_size=256, columns=list(format.fields)):
                for row in rows.to_pylist():
                    number += 1
                    if not format.is_text or row[format.fields[0]]:
                        yield f"row {number} of {path}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None


def _check_columns(path: Path, format: Format, schema: Any) -> None:
    columns = {column.name: str(column.type) for column in schema}
    for field in format.fields:
        if field not in columns:
            names = ", ".join(map(repr, columns)) or "no columns"
            setting = "data.text_field" if format.is_text else f"the fields of data.format {format.config.format}"
            raise DataError(f"{path} has no column '{field}' (it has {names}): set {setting} to the text's column")
    kind = columns[format.fields[0]]
    if format.is_text and not kind.startswith(("string", "large_string", "dictionary<values=string")):
        raise DataError(f"the column '{format.fields[0]}' of {path} holds {kind}, not text: set data.text_field")


def _walk(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(files))


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split(os.sep))


def _binary(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"\0" in file.read(_LOOKED_AT)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
