"""Files of token ids that others wrote: nanoGPT's and llm.c's ``.bin``; Megatron's are in `megatron`.

They are read in blocks and never mapped into memory; nothing in them is trusted.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gptwright.data.base import file_facts
from gptwright.errors import DataError

DtypeName = Literal["uint16", "uint32"]
BLOCK = 1 << 20  # ids read together
_LLM_C = {20240520: "<u2", 20240801: "<u4"}  # the magic numbers of llm.c's headers, with the type of ids that follow
_HEADER = 1024  # bytes of llm.c's header


class Block(NamedTuple):
    """Some ids that stand one after the other."""

    ids: np.ndarray
    """(n,) int64."""
    ends: np.ndarray
    """int64: after how many of them a document ends."""


class TokenFile(ABC):
    """A file of ids, perhaps with one beside that says where documents end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = file_facts(path)
        """Path, size and time of change."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Ids in it."""

    @abstractmethod
    def blocks(self, eot: int | None, vocab_size: int) -> Iterator[Block]:
        """Yield all ids in order; the last document ends with the file.

        Args:
            eot: the id that ends each document, or None where nothing marks ends.
            vocab_size: what every id is below.

        Raises:
            DataError: an id is not, the file cannot be read, or it is not what it was.
        """

    def _ids(self, offset: int, count: int, dtype: np.dtype, vocab_size: int) -> np.ndarray:
        """Return ``count`` ids from byte ``offset``, int64, all of them known."""
        content = read_at(self.path, offset, count * dtype.itemsize)
        if len(content) < count * dtype.itemsize:
            raise DataError(f"{self.path} became shorter while it was being read: let it be, and run this again")
        ids = np.frombuffer(content, dtype=dtype).astype(np.int64)
        wrong = (ids < 0) | (ids >= vocab_size)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise DataError(
                f"{self.path} holds id {ids[first]} at byte {offset + first * dtype.itemsize}, and the tokenizer's ids "
                f"are 0 to {vocab_size - 1}: give the tokenizer that the file was made with, or the type of its ids"
            )
        return ids

    def _whole(self, size: int, width: int) -> int:
        """Return how many numbers of ``width`` bytes ``size`` bytes are."""
        if size % width:
            raise DataError(
                f"{self.path} holds {size} bytes of ids, and ids of {width} bytes come in multiples of that: it is cut "
                "short, or of another type (say which with --dtype)"
            )
        if not size:
            raise DataError(f"{self.path} holds no token ids: give a file that does")
        return size // width


class PlainFile(TokenFile):
    """Ids one after the other, as nanoGPT writes them, or after a header, as llm.c does."""

    def __init__(self, path: Path, dtype: DtypeName = "uint16") -> None:
        super().__init__(path)
        size, self._offset, self._dtype = self.facts["size"], 0, np.dtype(dtype).newbyteorder("<")
        header = read_at(path, 0, 12)
        magic, count = int.from_bytes(header[:4], "little"), int.from_bytes(header[8:], "little")
        if magic in _LLM_C and size >= _HEADER:
            self._offset, self._dtype = _HEADER, np.dtype(_LLM_C[magic])
            if count * self._dtype.itemsize != size - _HEADER:
                raise DataError(
                    f"{path} says in its header that it holds {count} ids of {self._dtype.itemsize} bytes, and "
                    f"{size - _HEADER} bytes follow: it is cut short, fetch it again"
                )
        self._tokens = self._whole(size - self._offset, self._dtype.itemsize)

    @property
    def tokens(self) -> int:
        """Ids in it."""
        return self._tokens

    def blocks(self, eot: int | None, vocab_size: int) -> Iterator[Block]:
        """Yield the ids; each ``eot`` ends a document, and one that ends nothing is left out."""
        before = eot
        for first in range(0, self._tokens, BLOCK):
            count = min(BLOCK, self._tokens - first)
            ids = self._ids(self._offset + first * self._dtype.itemsize, count, self._dtype, vocab_size)
            found, before = _ended(ids, before, eot), int(ids[-1])
            cut_off = first + count == self._tokens and (eot is None or before != eot)
            yield Block(found.ids, np.append(found.ends, len(found.ids)) if cut_off else found.ends)


def _ended(ids: np.ndarray, before: int | None, eot: int | None) -> Block:
    """Return ids with the ends that ``eot`` marks, without those that follow another one."""
    if eot is None:
        return Block(ids, np.empty(0, np.int64))
    marks = ids == eot
    again = marks & np.concatenate([[before == eot], marks[:-1]])
    kept = ids[~again]
    return Block(kept, np.flatnonzero(kept == eot) + 1)


def check_dtype(name: str) -> DtypeName:
    """Return the type of ids that ``name`` means.

    Raises:
        DataError: it is none.
    """
    if name not in ("uint16", "uint32"):
        raise DataError(f"--dtype is '{name}', and ids of a .bin are uint16 or uint32: choose one")
    return name


def read_at(path: Path, offset: int, count: int) -> bytes:
    """Return ``count`` bytes of a file from ``offset`` on, or as many as there are.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(count)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
