"""Sources on the disk: a text file, a folder of them, JSONL and Parquet."""

import json
import os
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from gptwright.data.base import FileSource, decode, file_facts, read_text
from gptwright.errors import DataError

_LOOKED_AT = 8192  # bytes; a NUL among the first ones makes a file binary, as git has it


class TextFile(FileSource):
    """One file of text is one document."""

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Take whatever no other kind took."""
        del source
        return True

    def documents(self) -> Iterator[str]:
        """Yield the whole file."""
        text = read_text(self.path)
        if text:
            yield text


class Jsonl(FileSource):
    """One JSON object a line, its text under `text_field`; blank lines are passed over."""

    suffixes = (".jsonl", ".ndjson")

    def documents(self) -> Iterator[str]:
        """Yield the text of each line."""
        yield from read_jsonl(self.path, self.config.text_field)


class Parquet(FileSource):
    """One document a row, in the column `text_field`; needs pyarrow."""

    suffixes = (".parquet",)

    def documents(self) -> Iterator[str]:
        """Yield the text of each row."""
        yield from read_parquet(self.path, self.config.text_field)


class Folder(FileSource):
    """Every text file below a folder is a document, in sorted order; hidden and binary ones are left out.

    A folder of nothing but ``.jsonl`` or nothing but ``.parquet`` files is read as those.
    """

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Take folders."""
        return Path(source).expanduser().is_dir()

    def documents(self) -> Iterator[str]:
        """Yield the documents of each file.

        Raises:
            DataError: there is no text file, or one cannot be read.
        """
        if not self._files:
            skipped = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise DataError(f"the folder {self.path} holds no text files{skipped}: put .txt files there")
        for path in self._files:
            yield from self._read(path)

    def _read(self, path: Path) -> Iterator[str]:
        field, suffixes = self.config.text_field, {file.suffix.lower() for file in self._files}
        if suffixes <= set(Jsonl.suffixes):
            yield from read_jsonl(path, field)
        elif suffixes <= set(Parquet.suffixes):
            yield from read_parquet(path, field)
        elif text := read_text(path):
            yield text

    @cached_property
    def _files(self) -> list[Path]:
        found = [path for path in _walk(self.path) if path.is_file()]
        shown = [path for path in found if not _hidden(path.relative_to(self.path))]
        rows = bool(shown) and all(path.suffix.lower() in Parquet.suffixes for path in shown)
        text = shown if rows else [path for path in shown if not _binary(path)]
        counts = (("hidden", len(found) - len(shown)), ("binary", len(shown) - len(text)))
        self.notes += [f"{kind} files left out: {count}" for kind, count in counts if count]
        return text

    @property
    def fingerprint_hint(self) -> dict[str, Any]:
        """The facts of each file that is read."""
        return {"path": str(self.path.resolve()), "files": [file_facts(path) for path in self._files]}


def read_jsonl(path: Path, field: str) -> Iterator[str]:
    """Yield ``field`` of each line of ``path``.

    Raises:
        DataError: a line is not UTF-8, not JSON, not an object, or has no text there.
    """
    offset = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = decode(line, path, offset)
                offset += len(line)
                if text.strip() and (found := _field_of(text, field, f"line {number} of {path}")):
                    yield found
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _field_of(line: str, field: str, place: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON ({error}): each line must be one JSON object") from None
    if not isinstance(row, dict):
        raise DataError(f"{place} is a JSON {type(row).__name__}, not an object with the key '{field}'")
    if field not in row:
        keys = ", ".join(map(repr, islice(row, 20))) or "no keys"
        raise DataError(f"{place} has no '{field}' (it has {keys}): set data.text_field to the key of the text")
    return _text(row[field], field, place)


def _text(value: Any, field: str, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place} has a {type(value).__name__} under '{field}', not text: set data.text_field")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place} holds \\u{ord(value[error.start]):04x} under '{field}', half of a surrogate pair, "
            "which is no character: write the pair whole or leave it out"
        ) from None
    return value


def read_parquet(path: Path, field: str) -> Iterator[str]:
    """Yield the column ``field`` of ``path``; empty and missing values are passed over.

    Raises:
        DataError: pyarrow is missing, the file is not Parquet or has no such column of text.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"reading {path} needs pyarrow, which is not installed: pip install 'gptwright[data]'"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            _check_column(path, field, table.schema_arrow)
            for rows in table.iter_batches(batch_size=256, columns=[field]):
                yield from (text for text in rows.column(0).to_pylist() if text)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None


def _check_column(path: Path, field: str, schema: Any) -> None:
    columns = {column.name: str(column.type) for column in schema}
    if field not in columns:
        names = ", ".join(map(repr, columns)) or "no columns"
        raise DataError(f"{path} has no column '{field}' (it has {names}): set data.text_field to the text's column")
    kind = columns[field]
    if not kind.startswith(("string", "large_string", "dictionary<values=string")):
        raise DataError(f"the column '{field}' of {path} holds {kind}, not text: set data.text_field")


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _binary(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"\0" in file.read(_LOOKED_AT)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
