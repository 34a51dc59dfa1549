"""Prepared data, opened: streams of tokens whose every byte was checked against the index."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np

from gptwright.data.chat_template import AnyTemplate, stored
from gptwright.data.checked import CheckedFile
from gptwright.data.contracts import SplitName
from gptwright.data.index import Index, Shard, SplitIndex, read_index
from gptwright.errors import DataError

_END = np.dtype("<i8")
_LEARN = np.dtype("u1")


class Prepared:
    """A folder that `prepare` made.

    Raises:
        DataError: a file is missing or of the wrong size.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index
        self._streams = {
            (number, name): TokenStream(folder, index, part.splits[name])
            for number, part in enumerate(index.parts)
            for name in ("train", "val")
        }

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> Self:
        """Open ``folder``; ``verify`` hashes every shard (about a second a gigabyte); sizes always count.

        Hashes are taken anew at each opening: a disk can change bytes without changing a date.

        Raises:
            DataError: the folder, its index or a shard is missing or damaged; it and both values are named.
        """
        folder = Path(folder)
        found = cls(folder, read_index(folder))
        if verify:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                list(pool.map(CheckedFile.verify, found._files()))
        return found

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
        """Counts of the training split, of all parts together."""
        return self.index.splits["train"]

    @property
    def val(self) -> SplitIndex:
        """Counts of the validation split: tokens, bytes, characters, documents."""
        return self.index.splits["val"]

    @property
    def names(self) -> list[str]:
        """The names of the parts; one unless the data is a mixture."""
        return [part.name for part in self.index.parts]

    @property
    def template(self) -> AnyTemplate | None:
        """How its chats were written, for prompts to be written alike; None where it holds none."""
        text = self.index.source.get("template")
        return None if text is None else stored(str(text))

    def split(self, name: SplitName, part: int = 0) -> "TokenStream":
        """Return the tokens of ``train`` or ``val`` of a part."""
        return self._streams[part, name]

    def check(self) -> None:
        """Look whether a shard was touched since it was opened; one that was is hashed again. Cheap otherwise.

        Raises:
            DataError: a shard is gone or has changed; it is named.
        """
        for file in self._files():
            file.check()

    def _files(self) -> Iterator[CheckedFile]:
        for stream in self._streams.values():
            yield from stream.files


class TokenStream:
    """The token ids of one split, as one long line over its shards, with what is known of each token."""

    def __init__(self, folder: Path, index: Index, split: SplitIndex) -> None:
        shards, lengths = split.shards, [shard.tokens for shard in split.shards]
        dtype = np.dtype(index.dtype).newbyteorder("<")
        self.folder = folder
        self._lengths = lengths
        self._ids = _Line([_file(folder, shard, ".bin", shard.tokens, dtype) for shard in shards], lengths, dtype)
        self._learn = None
        if all(shard.learn_sha256 for shard in shards):
            masks = [_file(folder, shard, ".learn", shard.tokens, _LEARN) for shard in shards]
            self._learn = _Line(masks, lengths, _LEARN)
        self._ends = None
        if all(shard.ends_sha256 for shard in shards):
            self._ends = [_file(folder, shard, ".ends", shard.ends, _END) for shard in shards]

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def files(self) -> list[CheckedFile]:
        """The files behind it."""
        return [*self._ids.files, *(self._learn.files if self._learn else ()), *(self._ends or ())]

    @property
    def masked(self) -> bool:
        """Whether it says which tokens count in the loss."""
        return self._learn is not None

    def read(self, start: int, n: int) -> np.ndarray:
        """Return ids ``start`` to ``start + n``, int64 (n,).

        Raises:
            IndexError: they are not all inside the stream.
            DataError: a shard became shorter or unreadable.
        """
        return self._ids.read(start, n).astype(np.int64)

    def learn(self, start: int, n: int) -> np.ndarray:
        """Return which of the tokens ``start`` to ``start + n`` count in the loss, bool (n,)."""
        if self._learn is None:
            return np.ones(n, dtype=bool)
        return self._learn.read(start, n).astype(bool)

    def ends(self) -> Iterator[np.ndarray]:
        """Yield after how many tokens of the stream each document ends, int64, a shard at a time.

        Raises:
            DataError: the data was prepared before this was noted.
        """
        if self._ends is None:
            raise DataError(
                f"{self.folder} was prepared by an older gptwright, which did not note where documents end: "
                "delete it and prepare the data again, or use data.packing=stream"
            )
        first = 0
        for file, length in zip(self._ends, self._lengths, strict=True):
            yield np.frombuffer(file.read(0, file.size), dtype=_END).astype(np.int64) + first
            first += length

    def check(self) -> None:
        """Do as `Prepared.check` does, for the files of this stream."""
        for file in self.files:
            file.check()


class _Line:
    """Numbers of one type that lie in several files, as one line."""

    def __init__(self, files: Sequence[CheckedFile], lengths: Sequence[int], dtype: np.dtype) -> None:
        self.files, self._lengths, self._dtype = files, lengths, dtype
        self._ends = list(accumulate(lengths))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, start: int, n: int) -> np.ndarray:
        if start < 0 or n < 0 or start + n > len(self):
            raise IndexError(f"tokens {start} to {start + n} are not inside 0 to {len(self)}")
        found, done, width = [np.empty(0, self._dtype)], 0, self._dtype.itemsize
        while done < n:
            place = bisect_right(self._ends, start + done)
            first = start + done - (self._ends[place] - self._lengths[place])
            count = min(n - done, self._lengths[place] - first)
            content = self.files[place].read(first * width, count * width)
            found.append(np.frombuffer(content, dtype=self._dtype))
            done += count
        return found[-1] if len(found) == 2 else np.concatenate(found)


def _file(folder: Path, shard: Shard, suffix: str, count: int, dtype: np.dtype) -> CheckedFile:
    hashes = {".bin": shard.sha256, ".ends": shard.ends_sha256, ".learn": shard.learn_sha256}
    path = (folder / shard.file).with_suffix(suffix)
    return CheckedFile(path, count * dtype.itemsize, str(hashes[suffix]), way_out=way_out(folder))


def way_out(folder: Path) -> str:
    """Return what to do when prepared data is damaged."""
    return f"delete {folder} and prepare the data again"
