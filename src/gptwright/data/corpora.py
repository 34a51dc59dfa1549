"""Corpora that need no network: what every Python brings along."""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptwright.data.base import Piece, Source, file_facts
from gptwright.errors import DataError

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class PythonDocs(Source):
    """The language reference that ships in ``pydoc_data``: one document a topic, sorted by name."""

    name = "python-docs"

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Take the name `python-docs`."""
        return source == cls.name

    def pieces(self) -> Iterator[Piece]:
        """Yield the topics."""
        self._text_only()
        topics = _topics()
        yield from (Piece(topics[key]) for key in sorted(topics) if topics[key])

    @property
    def fingerprint_hint(self) -> dict[str, Any]:
        """The hash of all the text, which is small."""
        topics = _topics()
        text = "\0".join(f"{key}\0{topics[key]}" for key in sorted(topics))
        return {"corpus": self.name, "sha256": hashlib.sha256(text.encode()).hexdigest()}


class Stdlib(Source):
    """The source of the running Python's standard library: one document a .py file, tests left out."""

    name = "stdlib"

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Take the name `stdlib`."""
        return source == cls.name

    def pieces(self) -> Iterator[Piece]:
        """Yield the files in sorted order; the few that are not UTF-8 are left out."""
        self._text_only()
        for path in _library_files():
            try:
                text = path.read_bytes().decode("utf-8-sig")
            except (UnicodeDecodeError, OSError):
                continue
            if text:
                yield Piece(text)

    @property
    def fingerprint_hint(self) -> dict[str, Any]:
        """The Python version and the facts of each file."""
        files = [list(file_facts(path).values()) for path in _library_files()]
        return {"corpus": self.name, "python": sys.version, "files": files}


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python was installed without pydoc_data, so there is no python-docs: use another source"
        ) from None
    return topics


def _library_files() -> list[Path]:
    root = sysconfig.get_path("stdlib")
    found: list[Path] = []
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        found += [Path(place, name) for name in files if name.endswith(".py")]
    if not found:
        raise DataError(f"this Python's standard library has no source files at {root}: use another source")
    return sorted(found)
