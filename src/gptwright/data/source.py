"""Open whatever `data.source` or `data.mixture` names."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import chain, count
from pathlib import Path
from typing import Any

from gptwright.data.base import Piece, Source
from gptwright.data.config import DataConfig, PartConfig
from gptwright.data.corpora import PythonDocs, Stdlib
from gptwright.data.files import Folder, Jsonl, Parquet, TextFile
from gptwright.data.formats import FORMATS, Format
from gptwright.data.hub import HubDataset
from gptwright.data.opened import is_prepared
from gptwright.errors import DataError

_CORPORA: tuple[type[Source], ...] = (PythonDocs, Stdlib)
_FILES: tuple[type[Source], ...] = (Folder, Jsonl, Parquet, TextFile)


def open_sources(config: DataConfig) -> list[Source]:
    """Return the source or, of a mixture, the sources that ``config`` names, each with a name of its own.

    Raises:
        DataError: there is no such file or folder, or a template is none.
    """
    make = FORMATS[config.format]
    wheres = [f"data.mixture.{n}.source" for n in range(len(config.parts))] if config.mixture else ["data.source"]
    found = [_open(part, make(config, part), where) for part, where in zip(config.parts, wheres, strict=True)]
    found = [source if config.limit is None else First(source, config.limit) for source in found]
    taken = {source.part.name for source in found}
    for source in found:
        source.name = source.part.name or _free(source.name, taken)
        taken.add(source.name)
    return found


class First(Source):
    """The first documents of a source."""

    def __init__(self, source: Source, limit: int) -> None:
        super().__init__(source.part, source.format, source.where)
        self.source, self.limit = source, limit
        self.name, self.notes = source.name, source.notes

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Take nothing: it is put around other sources."""
        del source
        return False

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces of so many documents, and read no further."""
        left = self.limit
        for piece in self.source.pieces():
            yield piece
            left -= piece.last
            if not left:
                return

    @property
    def fingerprint_hint(self) -> dict[str, Any]:
        """What the source says, with how much of it is read."""
        return self.source.fingerprint_hint | {"limit": self.limit}


def _free(name: str, taken: set[str | None]) -> str:
    """Return ``name``, or where it is taken the name with the next number that is free."""
    every = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(one for one in every if one not in taken)


def _open(part: PartConfig, format: Format, where: str) -> Source:
    """Open one source; a corpus' name wins over a file's (write `./stdlib`)."""
    if is_prepared(part.source):
        raise DataError(
            f"{where} '{part.source}' is prepared data, which is used whole and alone: name it in data.source, or give "
            "the text that it was made from"
        )
    for kind in (*_CORPORA, HubDataset):
        if kind.accepts(part.source):
            return kind(part, format, where)
    _check_exists(part.source, where)
    return next(kind(part, format, where) for kind in _FILES if kind.accepts(part.source))


def _check_exists(source: str, where: str) -> None:
    path = Path(source).expanduser()
    try:
        if path.is_file() or path.is_dir():
            return
        what = "is neither a file nor a folder" if path.exists() else "does not exist"
    except OSError as error:  # for example a name longer than the system allows
        what = f"cannot be looked up ({error.strerror})"
    raise DataError(
        f"{where} '{source}' {what} (current directory {os.getcwd()}){_similar(path)}; give a file, a "
        f"folder, hf:owner/name, or a built-in corpus ({', '.join(kind.name for kind in _CORPORA)})"
    )


def _similar(path: Path) -> str:
    try:
        beside = sorted(os.listdir(path.parent))
    except OSError:
        return f"; nor does the folder {path.parent}"
    names = [*beside, *(kind.name for kind in _CORPORA)]
    close = get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"; similar names: {', '.join(close)}" if close else ""
