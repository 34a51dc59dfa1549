"""A run is a folder: settings, metrics, samples, checkpoints, and in the end a report."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptwright.config.yaml import Source, dump, parse
from gptwright.errors import CheckpointError, ConfigError, GptwrightError
from gptwright.train.checkpoint import Checkpoint, by_step, latest
from gptwright.train.config import RunConfig

FREE_TO_CHANGE = (
    "train.steps",
    "train.micro_batch",
    "train.compile",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.sample_tokens",
    "train.sample_prompt",
    "train.trackers",
)
"""Settings that may differ when a run is resumed: they do not touch what was learnt so far."""


CONFIG = "config.yaml"
_HEADING = re.compile(r"^=== step (\d+) \| \d+ tokens ===$", re.MULTILINE)


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / CONFIG
        self.checkpoints = self.folder / "checkpoints"
        self._metrics = self.folder / "metrics.jsonl"
        self._samples = self.folder / "samples.txt"

    def refuse_existing(self) -> None:
        """Make sure that a new run can begin here.

        Raises:
            GptwrightError: the folder exists and is not empty.
        """
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise GptwrightError(
                f"run folder {self.folder} exists already; continue it with --resume, name another with --run, "
                "or delete it"
            )

    def require_config(self) -> Path:
        """Return the file of resolved settings, which must exist."""
        if not self.config_file.is_file():
            raise CheckpointError(
                f"run folder {self.folder} has no {CONFIG}, so there is nothing to resume; name a run with --run, or "
                "give CONFIG and leave --resume out"
            )
        return self.config_file

    def write_config(self, config: RunConfig) -> None:
        """Write the resolved settings."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(self.config_file, dump(config.to_dict()))
        except OSError as error:
            raise GptwrightError(
                f"run folder {self.folder} cannot be written: {error.strerror or error}; name another with --run"
            ) from None

    def checkpoint_for(self, config: RunConfig, warn: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest sound checkpoint to continue with ``config``, or None where none was saved yet.

        ``warn`` hears of that, and of damaged ones.

        Raises:
            ConfigError: settings differ that may not.
            CheckpointError: all checkpoints are damaged.
        """
        _refuse_other_settings(self.folder, config, read_data(self.require_config()))
        if not by_step(self.checkpoints):
            warn(f"run {self.folder} holds no checkpoint yet; it begins again at step 0")
            self.rewind(0)
            return None
        found, damaged = latest(self.checkpoints)
        for sentence in damaged:
            warn(f"{sentence}; going back to step {found.step}")
        return found

    def rewind(self, step: int) -> None:
        """Drop metrics and samples after ``step``: they will come again."""
        kept = [json.dumps(row) for row in self.metrics() if row.get("step", 0) <= step]
        if self._metrics.exists():
            with _writing(self._metrics):
                _replace(self._metrics, "".join(line + "\n" for line in kept))
        if self._samples.exists():
            text = self._samples.read_text("utf-8", errors="replace")
            later = (found.start() for found in _HEADING.finditer(text) if int(found[1]) > step)
            with _writing(self._samples):
                _replace(self._samples, text[: next(later, len(text))])

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the metrics written so far; a torn last line is left out."""
        if not self._metrics.exists():
            return
        for line in self._metrics.read_text("utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one line of metrics."""
        _append(self._metrics, json.dumps(row) + "\n")

    def add_sample(self, step: int, tokens: int, text: str) -> None:
        """Append one sample of text."""
        _append(self._samples, f"=== step {step} | {tokens} tokens ===\n{text}\n\n")

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Write what the run came to."""
        path = self.folder / "summary.json"
        with _writing(path):
            _replace(path, json.dumps(summary, indent=2) + "\n")


def _refuse_other_settings(folder: Path, config: RunConfig, saved: Mapping[str, Any]) -> None:
    old, new = dict(_flat(saved)), dict(_flat(config.to_dict()))
    if config.model.vocab_size is None:  # taken from the data, which are compared by themselves
        new["model.vocab_size"] = old.get("model.vocab_size")
    differ = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    swapped = tuple(key.removesuffix("type") for key in differ if key.endswith(".type"))
    differ = [key for key in differ if key.endswith(".type") or not key.startswith(swapped)]  # the part says it all
    differ = [key for key in differ if not any(key == free or key.startswith(free + ".") for free in FREE_TO_CHANGE)]
    if differ:
        changes = "; ".join(f"{key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in differ[:6])
        raise ConfigError(
            f"run {folder} cannot be resumed with other settings: {changes}; resume with the settings that it "
            "began with, or start a new run with --run"
        )


def read_data(path: Path) -> dict[str, Any]:
    """Return a saved YAML file as plain data.

    Raises:
        ConfigError: it is not what was written there.
    """
    node = parse(path.read_text("utf-8", errors="replace"), Source(str(path)))
    data = node.plain() if node else None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no settings; restore it, or start a new run with --run")
    return data


def _flat(data: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, data


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror or error}; free some space, then --resume"
        ) from error


def _append(path: Path, text: str) -> None:
    with _writing(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, "utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
