"""Open whatever `data.source` names."""

import os
from difflib import get_close_matches
from pathlib import Path

from gptwright.data.base import Source
from gptwright.data.config import DataConfig
from gptwright.data.corpora import PythonDocs, Stdlib
from gptwright.data.files import Folder, Jsonl, Parquet, TextFile
from gptwright.data.hub import HubDataset
from gptwright.errors import DataError

_CORPORA: tuple[type[Source], ...] = (PythonDocs, Stdlib)
_FILES: tuple[type[Source], ...] = (Folder, Jsonl, Parquet, TextFile)


def open_source(config: DataConfig) -> Source:
    """Return the source that ``config.source`` names; a corpus' name wins over a file's (write `./stdlib`).

    Raises:
        DataError: there is no such file or folder.
    """
    for kind in (*_CORPORA, HubDataset):
        if kind.accepts(config.source):
            return kind(config)
    _check_exists(config.source)
    return next(kind(config) for kind in _FILES if kind.accepts(config.source))


def _check_exists(source: str) -> None:
    path = Path(source).expanduser()
    try:
        if path.is_file() or path.is_dir():
            return
        what = "is neither a file nor a folder" if path.exists() else "does not exist"
    except OSError as error:  # for example a name longer than the system allows
        what = f"cannot be looked up ({error.strerror})"
    raise DataError(
        f"data.source '{source}' {what} (current directory {os.getcwd()}){_similar(path)}; give a file, a "
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
