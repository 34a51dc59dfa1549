"""Read a run folder as it is: files may be missing, the last line torn, values not finite."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML, YAMLError

from gptwright.errors import CheckpointError

Columns = dict[str, np.ndarray]
"""Equally long float64 arrays by name, ordered by step; NaN where a line had no such number."""

FILES = ("config.yaml", "metrics.jsonl", "samples.txt", "summary.json")
_SAMPLE = re.compile(r"^=== step (\d+)(?: \| (\d+) tokens)?.*===\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """What the model wrote at one step."""

    step: int
    tokens: int | None
    text: str


@dataclass(frozen=True)
class Run:
    """Everything a report shows, as found in the folder."""

    folder: Path
    train: Columns
    """One row a training line, with `loss`."""
    val: Columns
    """One row an evaluation, with `val_loss`."""
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    torn_lines: int = 0


def read_run(folder: Path) -> Run:
    """Read whatever a run folder holds.

    Raises:
        CheckpointError: it is not a folder, or holds none of the files of a run.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no run folder '{folder}'; name the folder that a training run wrote")
    if not any((folder / name).is_file() for name in FILES):
        raise CheckpointError(
            f"'{folder}' is not a run folder: it holds none of {', '.join(FILES)}; "
            "name the folder that a training run wrote"
        )
    rows, torn = parse_lines(_text(folder / "metrics.jsonl"))
    config_text = _text(folder / "config.yaml")
    return Run(
        folder=folder,
        train=columns(rows, "loss"),
        val=columns(rows, "val_loss"),
        config_text=config_text,
        config=_yaml(config_text),
        summary=_json_object(_text(folder / "summary.json")),
        samples=parse_samples(_text(folder / "samples.txt")),
        torn_lines=torn,
    )


def parse_lines(text: str) -> tuple[list[dict[str, Any]], int]:
    """Return the JSON objects of a JSON-lines text and how many lines were not one."""
    rows, torn = [], 0
    for line in text.splitlines():
        if not line.strip():
            continue
        row = _json_object(line)
        if row:
            rows.append(row)
        else:
            torn += 1
    return rows, torn


def columns(rows: Iterable[Mapping[str, Any]], needed: str) -> Columns:
    """Return the rows that have ``needed`` as columns, by ascending step.

    A run that was killed and resumed logs some steps twice: the later line is the one that counts.
    """
    by_step = {row["step"]: row for row in rows if needed in row and _is_number(row.get("step"))}
    ordered = [by_step[step] for step in sorted(by_step)]
    names = dict.fromkeys(name for row in ordered for name in row)
    return {name: np.array([_number(row.get(name)) for row in ordered]) for name in names}


def parse_samples(text: str) -> list[Sample]:
    """Return the samples of a `samples.txt` by step; of two at one step the later."""
    marks = list(_SAMPLE.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    found = {}
    for mark, end in zip(marks, ends, strict=False):
        tokens = int(mark[2]) if mark[2] else None
        found[int(mark[1])] = Sample(int(mark[1]), tokens, text[mark.end() : end].strip("\n"))
    return [found[step] for step in sorted(found)]


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _yaml(text: str) -> dict[str, Any]:
    try:
        found = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError):  # a report is still worth having: the text is shown as it is
        return {}
    return found if isinstance(found, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
