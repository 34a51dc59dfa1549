"""Prepared data, opened: memory-mapped token streams whose every byte was checked against the index."""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np

from gptwright.data.contracts import SplitName
from gptwright.data.index import Index, Shard, SplitIndex, read_index
from gptwright.errors import DataError


class Prepared:
    """A folder that `prepare` made."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> Self:
        """Open ``folder``; ``verify`` hashes every shard (about a second a gigabyte); sizes always count.

        Hashes are taken anew at each opening: a disk can change bytes without changing a date.

        Raises:
            DataError: the folder, its index or a shard is missing or damaged; it and both values are named.
        """
        folder = Path(folder)
        index = read_index(folder)
        shards = [shard for part in index.splits.values() for shard in part.shards]
        for shard in shards:
            _check_size(folder, shard, np.dtype(index.dtype).itemsize)
        if verify:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                list(pool.map(lambda shard: _check_hash(folder, shard), shards))
        return cls(folder, index)

    @property
    def fingerprint(self) -> str:
        """The sha256 of what a model would see; equal data has it equal wherever it lies."""
        return self.index.fingerprint

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer was saved."""
        return self.folder / "tokenizer"

    @property
    def train(self) -> SplitIndex:
        """Counts of the training split."""
        return self.index.splits["train"]

    @property
    def val(self) -> SplitIndex:
        """Counts of the validation split: tokens, bytes, characters, documents."""
        return self.index.splits["val"]

    def split(self, name: SplitName) -> "TokenStream":
        """Return the tokens of ``train`` or ``val``."""
        files = [self.folder / shard.file for shard in self.index.splits[name].shards]
        return TokenStream(files, np.dtype(self.index.dtype))


class TokenStream:
    """The token ids of one split, as one long line over its memory-mapped shards."""

    def __init__(self, files: Iterable[Path], dtype: np.dtype) -> None:
        little = dtype.newbyteorder("<")
        self._shards = [np.memmap(file, dtype=little, mode="r") for file in files]
        self._ends = list(accumulate(len(shard) for shard in self._shards))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, start: int, n: int) -> np.ndarray:
        """Return ids ``start`` to ``start + n``, int64 (n,).

        Raises:
            IndexError: they are not all inside the stream.
        """
        if start < 0 or n < 0 or start + n > len(self):
            raise IndexError(f"tokens {start} to {start + n} are not inside 0 to {len(self)}")
        out, done = np.empty(n, dtype=np.int64), 0
        while done < n:
            place = bisect_right(self._ends, start + done)
            shard = self._shards[place]
            first = start + done - (self._ends[place] - len(shard))
            part = shard[first : first + n - done]
            out[done : done + len(part)] = part
            done += len(part)
        return out


def _check_size(folder: Path, shard: Shard, itemsize: int) -> None:
    path, wanted = folder / shard.file, shard.tokens * itemsize
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"the shard {path} cannot be read ({error.strerror}): {_way_out(folder)}") from None
    if size != wanted:
        raise DataError(f"the shard {path} has {size} bytes and its index says {wanted}: {_way_out(folder)}")


def _check_hash(folder: Path, shard: Shard) -> None:
    path = folder / shard.file
    try:
        found = file_hash(path)
    except OSError as error:
        raise DataError(f"the shard {path} cannot be read ({error.strerror}): {_way_out(folder)}") from None
    if found != shard.sha256:
        raise DataError(
            f"the shard {path} does not match its hash (sha256 {found}, its index says {shard.sha256}): "
            f"{_way_out(folder)}"
        )


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _way_out(folder: Path) -> str:
    return f"delete {folder} and prepare the data again"
