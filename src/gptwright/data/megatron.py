"""Megatron-LM's token files: a ``.bin`` of ids with an ``.idx`` that says where sequences and documents stand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gptwright.data import token_files
from gptwright.data.base import file_facts
from gptwright.data.token_files import Block, DtypeName, PlainFile, TokenFile, read_at
from gptwright.errors import DataError

_MEGATRON = b"MMIDIDX\0\0"
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # Megatron's numbers for types of ids


class MegatronFile(TokenFile):
    """Ids with an index, as Megatron-LM and its children write them (`MMapIndexedDataset`, version 1)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.index = path.with_suffix(".idx")
        content = read_at(self.index, 0, file_facts(self.index)["size"])
        if content[:9] != _MEGATRON:
            raise DataError(f"{self.index} is no index of Megatron's: it begins with {content[:9]}, not {_MEGATRON}")
        head = content[9:34].ljust(25, b"\0")
        version, kind = int.from_bytes(head[:8], "little"), head[8]
        sequences, documents = (int.from_bytes(head[at : at + 8], "little") for at in (9, 17))
        if version != 1 or kind not in _TYPES:
            raise DataError(
                f"{self.index} has version {version} and type {kind}, and what can be read is version 1 with whole "
                f"numbers (types {', '.join(map(str, _TYPES))}): write it again with such ids"
            )
        needed = 34 + 12 * sequences + 8 * documents
        if len(content) < needed:
            raise DataError(
                f"{self.index} is cut short: {sequences} sequences and {documents} documents need {needed} bytes, and "
                f"it has {len(content)}; fetch it again"
            )
        self._dtype = np.dtype(_TYPES[kind])
        self._lengths = np.frombuffer(content, "<i4", sequences, 34).astype(np.int64)
        self._places = np.frombuffer(content, "<i8", sequences, 34 + 4 * sequences)
        self._starts = np.frombuffer(content, "<i8", documents, 34 + 12 * sequences)
        self._check(sequences)

    def _check(self, sequences: int) -> None:
        """Refuse sequences beyond the file and documents beyond the sequences."""
        size, width = self.facts["size"], self._dtype.itemsize
        wrong = (self._lengths < 0) | (self._places < 0) | (self._places > size - self._lengths * width)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise DataError(
                f"{self.index} says that sequence {first} has {self._lengths[first]} ids from byte "
                f"{self._places[first]} on, and {self.path} has {size} bytes: the two do not belong together"
            )
        starts = self._starts
        if len(starts) < 2 or starts[0] != 0 or starts[-1] != sequences or (np.diff(starts) < 0).any():
            raise DataError(
                f"{self.index} is damaged: its documents do not divide its {sequences} sequences; fetch it again"
            )
        if not self._lengths.any():
            raise DataError(f"{self.path} holds no token ids: give a file that does")

    @property
    def tokens(self) -> int:
        """Ids in it."""
        return int(self._lengths.sum())

    def blocks(self, eot: int | None, vocab_size: int) -> Iterator[Block]:
        """Yield the documents, each with ``eot`` at its end, which is added where it is not there."""
        held: list[np.ndarray] = []
        ends: list[int] = []
        count = 0
        for first, last in zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True):
            for ids, ended in _flagged(self._document(first, last, eot, vocab_size)):
                held.append(ids)
                count += len(ids)
                ends += [count] if ended else []
                if count >= token_files.BLOCK:
                    yield Block(np.concatenate(held), np.array(ends, np.int64))
                    held, ends, count = [], [], 0
        if held:
            yield Block(np.concatenate(held), np.array(ends, np.int64))

    def _document(self, first: int, last: int, eot: int | None, vocab_size: int) -> Iterator[np.ndarray]:
        """Yield the ids of the sequences of a document, in parts; nothing where there are none."""
        width, final = self._dtype.itemsize, eot
        for place, length in zip(self._places[first:last].tolist(), self._lengths[first:last].tolist(), strict=True):
            for start in range(0, length, token_files.BLOCK):
                ids = self._ids(place + start * width, min(token_files.BLOCK, length - start), self._dtype, vocab_size)
                final = int(ids[-1])
                yield ids
        if final != eot and eot is not None:
            yield np.array([eot], np.int64)


def _flagged(parts: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield each part with whether it is the last."""
    before = None
    for part in parts:
        if before is not None:
            yield before, False
        before = part
    if before is not None:
        yield before, True


def open_token_file(path: str | Path, dtype: DtypeName = "uint16") -> TokenFile:
    """Open a file of ids; one with an ``.idx`` beside is Megatron's.

    Args:
        path: the ``.bin`` file, or Megatron's ``.idx`` or what both names begin with.
        dtype: type of the ids of a ``.bin`` without a header.

    Raises:
        DataError: it is missing, damaged, or holds no ids.
    """
    path = Path(path).expanduser()
    if path.suffix == ".idx":
        path = path.with_suffix(".bin")
    elif not path.exists() and path.with_name(path.name + ".bin").exists():
        path = path.with_name(path.name + ".bin")
    return MegatronFile(path) if path.with_suffix(".idx").exists() else PlainFile(path, dtype)
