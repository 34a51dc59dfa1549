"""Read a run folder as it is: files may be missing, the last line torn, values not finite."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from gptwright.errors import CheckpointError
from gptwright.train.report.lines import Columns, json_object, read_lines

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
    lines = read_lines(folder / "metrics.jsonl")
    config_text = _text(folder / "config.yaml")
    return Run(
        folder=folder,
        train=lines.train,
        val=lines.val,
        config_text=config_text,
        config=_yaml(config_text),
        summary=json_object(_text(folder / "summary.json")),
        samples=parse_samples(_text(folder / "samples.txt")),
        torn_lines=lines.torn,
    )


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


def _yaml(text: str) -> dict[str, Any]:
    try:
        found = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError):  # a report is still worth having: the text is shown as it is
        return {}
    return found if isinstance(found, dict) else {}
