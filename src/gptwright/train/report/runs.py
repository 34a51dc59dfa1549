"""All runs below some folders, one line each."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptwright.errors import GptwrightError
from gptwright.model.config import ModelConfig
from gptwright.train.checkpoint import MANIFEST
from gptwright.train.report.figures import brief
from gptwright.train.report.read import Run, read_run
from gptwright.train.report.state import state
from gptwright.train.report.words import number

MARKS = ("config.yaml", "metrics.jsonl", "summary.json")
"""Files that make a folder a run."""
DEEPEST = 6


@dataclass(frozen=True)
class RunLine:
    """What one line says of a run; None where the folder does not tell."""

    name: str
    """The folder, as seen from where the search began."""
    folder: str
    state: str
    """`running`, `finished`, `stopped`, `interrupted`, `empty` or `broken`."""
    step: int = 0
    steps: int | None = None
    params: int | None = None
    """Parameters of the model."""
    val_loss: float | None = None
    """The last validation loss, nats a token."""
    best_val_loss: float | None = None
    bits_per_byte: float | None = None
    """The last one, on the validation split."""
    tokens: int | None = None
    seconds: float | None = None
    """Seconds of training, evaluation and saving left out."""
    precision: str = ""
    optimizer: str = ""
    parts: str = ""
    """The parts of the model in brief."""
    note: str = ""
    """Why it stopped, or what is broken."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


SORTS = ("name", "state", "step", "params", "val_loss", "best_val_loss", "bits_per_byte", "tokens", "seconds")
"""What runs can be sorted by."""


def list_runs(folders: Iterable[Path]) -> list[RunLine]:
    """Return a line for every run folder below ``folders``, or one that is named itself; by name.

    A folder that cannot be read is a line whose state is `broken`.

    Raises:
        GptwrightError: one of ``folders`` is not there.
    """
    found = {}
    for top in folders:
        if not top.is_dir():
            raise GptwrightError(f"there is no folder '{top}' to look for runs in; name one that holds run folders")
        for folder in _run_folders(top):
            name = folder.as_posix() if folder == top else folder.relative_to(top).as_posix()
            found.setdefault(folder.resolve(), line(folder, name))
    return sorted(found.values(), key=lambda each: each.name)


def line(folder: Path, name: str) -> RunLine:
    """Return the line of one run folder, whatever it holds."""
    try:
        return _line(read_run(folder), name)
    except (GptwrightError, OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        return RunLine(name, str(folder), "broken", note=str(error) or type(error).__name__)


def by(lines: Iterable[RunLine], key: str, *, reverse: bool = False) -> list[RunLine]:
    """Return the lines sorted by a field of `SORTS`; runs without it come last, either way.

    Raises:
        GptwrightError: there is no such field to sort by.
    """
    if key not in SORTS:
        raise GptwrightError(f"runs cannot be sorted by '{key}'; name one of {', '.join(SORTS)}")
    lines = list(lines)
    known = [each for each in lines if getattr(each, key) is not None]
    without = [each for each in lines if getattr(each, key) is None]
    return sorted(known, key=lambda each: getattr(each, key), reverse=reverse) + without


def _run_folders(top: Path) -> Iterator[Path]:
    """Yield run folders from ``top`` down; what lies inside a run is not looked at."""
    depth = len(top.parts)
    for place, folders, files in os.walk(top):
        here = Path(place)
        if MANIFEST in files:  # weights alone, such as quantized ones
            folders.clear()
        elif any(name in files for name in MARKS) or (here != top and "checkpoints" in folders):
            folders.clear()
            yield here
        elif len(here.parts) - depth >= DEEPEST:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _line(run: Run, name: str) -> RunLine:
    if run.config_text and not run.config:
        raise GptwrightError("config.yaml holds no settings that can be read")
    if run.torn_lines and not run.train and not run.val:
        raise GptwrightError(f"none of the {run.torn_lines} lines of metrics.jsonl can be read")
    how, losses = state(run), run.val.get("val_loss", np.empty(0))
    return RunLine(
        name=name,
        folder=str(run.folder),
        state=how.name,
        step=how.step,
        steps=how.steps,
        params=_params(run),
        val_loss=_last(run, "val_loss"),
        best_val_loss=float(np.nanmin(losses)) if np.isfinite(losses).any() else _last(run, "val_loss"),
        bits_per_byte=_last(run, "val_bits_per_byte"),
        tokens=_whole(_last(run, "tokens")),
        seconds=_last(run, "train_seconds"),
        precision=_precision(run),
        optimizer=_type(run.config.get("optim")),
        parts=brief(run.config),
        note=how.because,
    )


def _last(run: Run, name: str) -> float | None:
    """Return the last value of a figure: of rows where these are ahead of the summary."""
    found = [
        (float(part["step"][at]), float(part[name][at]))
        for part in (run.train, run.val)
        if name in part
        for at in np.flatnonzero(np.isfinite(part[name]))[-1:]
    ]
    value = number(run.summary.get(name))
    if math.isfinite(value):
        found.append((number(run.summary.get("step")), value))
    return max(found)[1] if found else None


def _params(run: Run) -> int | None:
    value = number(run.summary.get("params"))
    if math.isfinite(value):
        return int(value)
    try:  # code of somebody's own is not run for a list
        return ModelConfig.from_dict(run.config["model"], trust_code=False).num_params()
    except Exception:  # settings of another version, or a vocabulary that is not known yet
        return None


def _precision(run: Run) -> str:
    """Return what was chosen, which checkpoints know, else what was asked for."""
    saved = sorted((run.folder / "checkpoints").glob("step-*/state.json"), key=os.path.getmtime)
    for path in reversed(saved):
        try:
            return str(json.loads(path.read_text("utf-8"))["precision"]["name"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
    train = run.config.get("train")
    return str(train.get("precision") or "") if isinstance(train, dict) else ""


def _type(part: Any) -> str:
    return str(part.get("type") or "adamw") if isinstance(part, dict) else str(part or "")


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
