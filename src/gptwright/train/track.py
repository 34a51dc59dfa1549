"""Trackers: where the numbers of a run go besides its own folder. None of them can end a run."""

import html
import importlib
import importlib.util
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from gptwright.errors import GptwrightError

Tell = Callable[[str], None]
"""Shows a note to a person."""


class Tracker(Protocol):
    """One place to send numbers and texts to."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record finite or infinite numbers of one step."""

    def text(self, step: int, name: str, text: str) -> None:
        """Record a text, for example a sample."""

    def close(self) -> None:
        """Write out what is left."""


class Trackers:
    """The trackers of a run, as one; ``notes`` says what could not be tracked, and why."""

    def __init__(self, trackers: Mapping[str, Tracker], notes: list[str], tell: Tell | None) -> None:
        self._open = dict(trackers)
        self._tell = tell
        self.notes = notes

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Send the numbers among ``metrics`` to every tracker."""
        numbers = {name: float(value) for name, value in metrics.items() if _is_number(value)}
        numbers.pop("step", None)
        self._each(lambda tracker: tracker.log(step, numbers))

    def text(self, step: int, name: str, text: str) -> None:
        """Send a text to every tracker."""
        self._each(lambda tracker: tracker.text(step, name, text))

    def close(self) -> None:
        """Close every tracker; afterwards nothing is sent any more."""
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, send: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                with redirect_stdout(sys.stderr):  # stdout belongs to results; mlflow prints its links there
                    send(tracker)
            except Exception as error:  # a full disk or a lost network must not cost a run
                del self._open[name]
                _note(self.notes, self._tell, _switched_off(name, error))


def open_trackers(
    names: Sequence[str],
    run_folder: Path,
    config: Mapping[str, Any],
    *,
    start_step: int = 0,
    tell: Tell | None = None,
) -> Trackers:
    """Open the named trackers: `tensorboard`, `wandb`, `mlflow`.

    ``start_step`` is where a resumed run goes on: what TensorBoard holds from there on is superseded.
    ``tell`` is called with each note that comes up, at once or during the run.

    Raises:
        GptwrightError: a name is unknown, or the package of `wandb` or `mlflow` is not installed.
    """
    for name in names:
        if name not in _KINDS:
            raise GptwrightError(f"unknown tracker '{name}'; known: {', '.join(_KINDS)}")
    found: dict[str, Tracker] = {}
    notes: list[str] = []
    for name in dict.fromkeys(names):
        try:
            with redirect_stdout(sys.stderr):
                found[name] = _KINDS[name](Path(run_folder), dict(config), start_step)
        except _MissingError as missing:
            _note(notes, tell, str(missing))
        except GptwrightError:
            raise
        except Exception as error:
            _note(notes, tell, _switched_off(name, error))
    return Trackers(found, notes, tell)


class _MissingError(Exception):
    """Something that comes with an extra is not installed, and the run can do without."""


class _TensorBoard:
    """Event files in `RUN/tensorboard`."""

    def __init__(self, folder: Path, config: dict[str, Any], start_step: int) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise _MissingError("no TensorBoard files: the package is not installed; pip install 'gptwright[track]'")
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=start_step or None)
        self._writer.add_text("config", f"```json\n{_json(config)}\n```", 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(_tag(name), value, step)

    def text(self, step: int, name: str, text: str) -> None:
        indented = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown for: as it is
        self._writer.add_text(name, indented, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of the project `gptwright` at Weights & Biases; WANDB_PROJECT and the like are honoured."""

    def __init__(self, folder: Path, config: dict[str, Any], start_step: int) -> None:
        del start_step
        self._wandb = _package("wandb")
        project = os.environ.get("WANDB_PROJECT", "gptwright")
        name = folder.resolve().name
        self._run = self._wandb.init(project=project, name=name, dir=str(folder), config=config)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({_tag(name): value for name, value in metrics.items()}, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: self._wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """A run at the MLflow server that MLFLOW_TRACKING_URI names."""

    def __init__(self, folder: Path, config: dict[str, Any], start_step: int) -> None:
        del start_step
        self._mlflow = _package("mlflow")
        self._mlflow.start_run(run_name=folder.resolve().name)
        self._mlflow.log_params({name: str(value)[:500] for name, value in _flat(config)})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(metrics), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._mlflow.log_text(text, f"{name}/step-{step}.txt")

    def close(self) -> None:
        self._mlflow.end_run()


_KINDS: dict[str, Callable[[Path, dict[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
}


def _package(name: str) -> ModuleType:
    if importlib.util.find_spec(name) is None:
        raise GptwrightError(f"the tracker '{name}' needs a package that is not installed; pip install {name}")
    return importlib.import_module(name)


def _tag(name: str) -> str:
    return f"val/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}"


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, default=str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _switched_off(name: str, error: Exception) -> str:
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 240, placeholder=" ...")
    return f"the tracker '{name}' is switched off: {reason}; the run itself goes on"


def _note(notes: list[str], tell: Tell | None, note: str) -> None:
    notes.append(note)
    if tell is not None:
        tell(note)
