"""Read `metrics.jsonl` as columns; of a file that has only grown since the last time, only what is new.

A report is written again at every evaluation, by the process that trains: reading all lines each time would cost more
and more.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]
"""Equally long float64 arrays by name, ordered by step; NaN where a line had no such number."""

_WITNESS = 64
"""Bytes before the place up to which a file was read; where they differ, it is another file."""


@dataclass(frozen=True)
class Lines:
    """What a file of metrics holds."""

    train: Columns = field(default_factory=dict)
    """One row a training line, with `loss`."""
    val: Columns = field(default_factory=dict)
    """One row an evaluation, with `val_loss`."""
    torn: int = 0
    """Lines that are no JSON object."""

    def then(self, text: str) -> "Lines | None":
        """Return these lines and those of ``text``; None where the new ones are not later ones."""
        rows, torn = parse_lines(text)
        train, val = _joined(self.train, columns(rows, "loss")), _joined(self.val, columns(rows, "val_loss"))
        return None if train is None or val is None else Lines(train, val, self.torn + torn)


@dataclass(frozen=True)
class _Known:
    """How far a file has been read."""

    path: Path
    file: tuple[int, int]
    end: int
    witness: bytes
    lines: Lines


_last: list[_Known] = []  # of one file: the run that this process trains


def read_lines(path: Path) -> Lines:
    """Return what the file holds; nothing where there is none."""
    if not path.is_file():
        return Lines()
    path = path.resolve()
    known = next((each for each in _last if each.path == path), None)
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        identity = (stat.st_dev, stat.st_ino)
        begin = known.end if known and known.file == identity and _grown(file, known, stat.st_size) else 0
        file.seek(begin)
        new = file.read()
    lines = (known.lines if known and begin else Lines()).then(_text(new[: new.rfind(b"\n") + 1]))
    if lines is None:  # a step that was logged before: all lines again, so that the later one wins
        return _whole(path)
    end = begin + new.rfind(b"\n") + 1
    before = (known.witness if known and begin else b"") + new[: new.rfind(b"\n") + 1]
    _last[:] = [_Known(path, identity, end, before[-_WITNESS:], lines)]
    rest = _text(new[new.rfind(b"\n") + 1 :])  # the last line, cut off or not: looked at, and read again next time
    return (lines.then(rest) or _whole(path)) if rest.strip() else lines


def parse_lines(text: str) -> tuple[list[dict[str, Any]], int]:
    """Return the JSON objects of a JSON-lines text and how many lines were not one."""
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    try:  # all at once: several times faster, and hardly ever is a line torn
        whole = json.loads(f"[{','.join(lines)}]")
        if len(whole) == len(lines) and all(type(row) is dict and row for row in whole):
            return whole, 0
    except (ValueError, RecursionError):
        pass
    found = [json_object(line) for line in lines]
    return [row for row in found if row], sum(not row for row in found)


def columns(rows: Iterable[Mapping[str, Any]], needed: str) -> Columns:
    """Return the rows that have ``needed`` as columns, by ascending step.

    A run that was killed and resumed logs some steps twice: the later line is the one that counts.
    """
    by_step = {row["step"]: row for row in rows if needed in row and _is_number(row.get("step"))}
    ordered = [by_step[step] for step in sorted(by_step)]
    names = dict.fromkeys(name for keys in dict.fromkeys(map(tuple, ordered)) for name in keys)
    return {name: _column([row.get(name) for row in ordered]) for name in names}


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in ``text``, an empty one where there is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole(path: Path) -> Lines:
    rows, torn = parse_lines(_text(path.read_bytes()))
    return Lines(columns(rows, "loss"), columns(rows, "val_loss"), torn)


def _grown(file: Any, known: _Known, size: int) -> bool:
    """Whether the file begins as it did: it was not written anew, as by a run that goes back to a checkpoint."""
    if size < known.end:
        return False
    file.seek(known.end - len(known.witness))
    return file.read(len(known.witness)) == known.witness


def _joined(old: Columns, new: Columns) -> Columns | None:
    """Return the rows of both; None where a new step is not after the old ones."""
    if not old or not new:
        return old or new
    if new["step"][0] <= old["step"][-1]:
        return None
    sizes = old["step"].size, new["step"].size
    gaps = [np.full(size, np.nan) for size in sizes]
    return {
        name: np.concatenate([old.get(name, gaps[0]), new.get(name, gaps[1])]) for name in dict.fromkeys([*old, *new])
    }


def _column(values: list[Any]) -> np.ndarray:
    if set(map(type, values)) <= {float, int, type(None)}:
        try:
            return np.array(values, dtype=float)  # None becomes NaN
        except OverflowError:
            pass
    return np.array([_number(value) for value in values])


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
    except OverflowError:
        return float("nan")
