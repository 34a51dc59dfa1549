"""Which documents share a row: worked out once, kept in files, read a row at a time."""

import hashlib
import json
import shutil
import tempfile
import weakref
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from gptwright.data.checked import CheckedFile
from gptwright.data.place import publish, write_file
from gptwright.errors import DataError

_TOGETHER = 8192  # pieces of documents that are arranged together
_NUMBER = np.dtype("<i8")
_FILES = ("rows", "pieces")


class Source(Protocol):
    """What a plan is made of, such as a `TokenStream`."""

    def learn(self, start: int, n: int) -> np.ndarray:
        """Return which of the tokens from ``start`` on count in the loss, bool (n,)."""
        ...

    def ends(self) -> Iterator[np.ndarray]:
        """Yield after how many tokens each document ends, int64, in blocks."""
        ...


class Plan:
    """For each row, which tokens stand in it, as pairs of where they begin in the stream and how many are predicted.

    Documents too long for a row are cut into full rows and a rest; with ``share`` (packing `documents`) rests and
    short documents are packed whole by best-fit decreasing, some thousand at a time (as in Ding et al. 2024,
    https://arxiv.org/abs/2404.10830), without it each has a row of its own (packing `pad`).
    """

    def __init__(self, folder: Path, context: int) -> None:
        facts = json.loads((folder / "plan.json").read_bytes())
        self.context, self.n_rows = context, int(facts["n_rows"])
        sizes = {"rows": (self.n_rows + 1) * _NUMBER.itemsize, "pieces": facts["n_pieces"] * 2 * _NUMBER.itemsize}
        way_out = f"delete {folder} and start again, it is made anew"
        self.files = [
            CheckedFile(folder / name, sizes[name], facts["sha256"][name], what="plan", way_out=way_out)
            for name in _FILES
        ]
        for file in self.files:
            file.verify()

    def row(self, number: int) -> list[tuple[int, int]]:
        """Return what stands in row ``number``."""
        width = _NUMBER.itemsize
        first, last = np.frombuffer(self.files[0].read(number * width, 2 * width), dtype=_NUMBER).tolist()
        content = self.files[1].read(first * 2 * width, (last - first) * 2 * width)
        return [(start, count) for start, count in np.frombuffer(content, dtype=_NUMBER).reshape(-1, 2).tolist()]

    def check(self) -> None:
        """Look whether the plan was touched.

        Raises:
            DataError: it is gone or has changed.
        """
        for file in self.files:
            file.check()


def open_plan(stream: Source, folder: Path, context: int, *, share: bool, answers_only: bool, what: str) -> Plan:
    """Return the plan for ``stream`` in ``folder``, which is made if it is not there or damaged.

    Where nothing can be written, it lies in a temporary folder as long as this process lives.

    Raises:
        DataError: there is nothing to learn.
    """
    with suppress(OSError, ValueError, KeyError, DataError):
        return Plan(folder, context)

    def rows() -> Iterator[list[tuple[int, int]]]:
        pieces = _pieces(stream, context, answers_only=answers_only)
        return _packed(pieces, context) if share else ([piece] for piece in pieces)

    beside = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        beside.mkdir(parents=True)
        _write(beside, rows(), what)
        publish(beside, folder)
    except OSError:
        own = Path(tempfile.mkdtemp(prefix="gptwright-plan-"))
        _write(own, rows(), what)
        plan = Plan(own, context)
        weakref.finalize(plan, shutil.rmtree, own, ignore_errors=True)
        return plan
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Plan(folder, context)


def _pieces(stream: Source, context: int, *, answers_only: bool) -> Iterator[tuple[int, int]]:
    """Yield where each piece of a document begins, and how many tokens are predicted in it."""
    begin = 0
    for ends in stream.ends():
        for end in ends.tolist():
            for start in range(begin, end - 1, context):
                count = min(context, end - 1 - start)
                if not answers_only or stream.learn(start + 1, count).any():
                    yield start, count
            begin = end


def _packed(pieces: Iterator[tuple[int, int]], room: int) -> Iterator[list[tuple[int, int]]]:
    while together := list(islice(pieces, _TOGETHER)):
        for row in best_fit([count for _, count in together], room):
            yield [together[number] for number in row]


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Pack things of these sizes, each at most ``room``, into rows: largest first, each where it leaves least."""
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # (room left, row), sorted
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        place = bisect_left(left, (sizes[number], -1))
        if place == len(left):
            rows.append([])
            space, row = room, len(rows) - 1
        else:
            space, row = left.pop(place)
        rows[row].append(number)
        if space > sizes[number]:
            insort(left, (space - sizes[number], row))
    return [sorted(row) for row in rows]


def _write(folder: Path, rows: Iterator[list[tuple[int, int]]], what: str) -> None:
    digests = {name: hashlib.sha256() for name in _FILES}
    n_rows = n_pieces = 0
    with (folder / "rows").open("wb") as row_file, (folder / "pieces").open("wb") as piece_file:
        files: dict[str, Any] = {"rows": row_file, "pieces": piece_file}

        def put(name: str, numbers: Any) -> None:
            content = np.asarray(numbers, dtype=_NUMBER).tobytes()
            files[name].write(content)
            digests[name].update(content)

        put("rows", 0)
        for row in rows:
            n_rows, n_pieces = n_rows + 1, n_pieces + len(row)
            put("pieces", row)
            put("rows", n_pieces)
    if not n_rows:
        raise DataError(f"{what} has no document with a token to predict from the one before it: give longer documents")
    hashes = {name: digest.hexdigest() for name, digest in digests.items()}
    facts = {"n_rows": n_rows, "n_pieces": n_pieces, "sha256": hashes}
    write_file(folder / "plan.json", json.dumps(facts).encode())
