"""A run is a folder: settings, metrics, samples, checkpoints, and in the end a report."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gptwright.config.yaml import Source, dump, parse
from gptwright.data.place import write_file
from gptwright.errors import CheckpointError, ConfigError, GptwrightError
from gptwright.train.checkpoint import MANIFEST, Checkpoint, by_step, latest, step_of, sync, verify
from gptwright.train.config import RunConfig
from gptwright.train.lock import LOCK, locked
from gptwright.train.resume import refuse_other_settings

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
        if self.folder.exists() and (not self.folder.is_dir() or {p.name for p in self.folder.iterdir()} - {LOCK}):
            raise GptwrightError(
                f"run folder {self.folder} exists already; continue it with --resume, name another with --run, "
                "or delete it"
            )

    @contextmanager
    def claimed(self, *, new: bool) -> Iterator[None]:
        """Be the only one who trains here inside the block; the folder is made if need be, and goes if left empty.

        Raises:
            GptwrightError: another process trains here, the folder cannot be written, or (``new``) is in use.
        """
        made = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        with ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.folder))
            except OSError as error:
                raise self._unwritable(error) if new else _full(self.folder, error) from None
            if new:
                self.refuse_existing()  # another run may have come and gone while this one got ready
            try:
                yield
            finally:
                held.close()
                with suppress(OSError):  # in use by now, as it should be
                    for place in made:
                        place.rmdir()

    def require_config(self) -> Path:
        """Return the file of resolved settings, which must exist in a folder that is a run."""
        if (self.folder / MANIFEST).exists():
            raise CheckpointError(
                f"{self.folder} holds saved weights and is not a run, so there is nothing to resume; name the run that "
                "they came from with --run"
            )
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
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> GptwrightError:
        return GptwrightError(
            f"run folder {self.folder} cannot be written: {error.strerror or error}; name another with --run"
        )

    def checkpoint_for(
        self, config: RunConfig, warn: Callable[[str], None], on_purpose: Collection[str] = ()
    ) -> Checkpoint | None:
        """Return the newest sound checkpoint to continue with ``config``, or None where none was saved yet.

        ``warn`` hears of that, and of damaged ones; settings ``on_purpose`` may differ from the run's.

        Raises:
            ConfigError: settings differ that may not.
            CheckpointError: all checkpoints are damaged.
        """
        refuse_other_settings(self.folder, config, read_data(self.require_config()), on_purpose)
        if not by_step(self.checkpoints):
            warn(f"run {self.folder} holds no checkpoint yet; it begins again at step 0")
            self.rewind(0)
            return None
        found, damaged = latest(self.checkpoints)
        for sentence in damaged:
            warn(f"{sentence}; going back to step {found.step}")
        if not found.resumable:
            raise CheckpointError(
                f"run {self.folder} was imported: it has weights and no optimizer to go on with; begin a new run with "
                f"init_from={self.folder}"
            )
        return found

    def checkpoint_before(self, step: int) -> Checkpoint | None:
        """Return the newest sound checkpoint of at most ``step`` steps, or None."""
        for folder in reversed(by_step(self.checkpoints)):
            if step_of(folder) <= step:
                with suppress(CheckpointError):
                    return verify(folder)
        return None

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

    def has_score(self, step: int) -> bool:
        """Say whether the metrics have a validation score of ``step``; resuming a finished run adds no second."""
        return any(row.get("step") == step and "val_loss" in row for row in self.metrics())

    def has_sample(self, step: int) -> bool:
        """Say whether there is a sample of ``step``."""
        text = self._samples.read_text("utf-8", errors="replace") if self._samples.exists() else ""
        return any(int(found[1]) == step for found in _HEADING.finditer(text))

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one line of metrics."""
        _append(self._metrics, json.dumps(row) + "\n")

    def add_sample(self, step: int, tokens: int, text: str) -> None:
        """Append one sample of text."""
        _append(self._samples, f"=== step {step} | {tokens} tokens ===\n{text}\n\n")

    def sync(self) -> None:
        """Let what was logged so far outlast a power cut."""
        for path in (self._metrics, self._samples):
            if path.exists():
                sync(path)

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Write what the run came to."""
        path = self.folder / "summary.json"
        with _writing(path):
            _replace(path, json.dumps(summary, indent=2) + "\n")


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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _full(path, error) from error


def _full(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be written: {error.strerror or error}; free some space, then --resume")


def _append(path: Path, text: str) -> None:
    with _writing(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def _replace(path: Path, text: str) -> None:
    write_file(path, text.encode(), lasting=False)
