"""The trackers of a run, as one. None of them can end a run."""

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from pydantic_core import PydanticCustomError

from gptwright.config.slot import ComponentConfig
from gptwright.data.place import write_file
from gptwright.errors import ConfigError
from gptwright.train.track.base import TRACKER, MissingPackage, TrackedRun, require

Tell = Callable[[str], None]
"""Shows a note to a person."""

KEPT = "trackers.json"
"""The file of a run folder in which trackers keep the ids under which they know the run."""
_BY_DEFAULT = "tensorboard"


class Open(Protocol):
    """An open tracker."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers of one step."""

    def text(self, step: int, name: str, text: str) -> None:
        """Record a text."""

    def close(self) -> None:
        """Write out what is left."""


class Trackers:
    """The trackers of a run, as one; ``notes`` says what could not be tracked, and why."""

    def __init__(self, trackers: Mapping[str, Open], notes: list[str], tell: Tell | None) -> None:
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

    def _each(self, send: Callable[[Open], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                with redirect_stdout(sys.stderr):  # stdout belongs to results; some clients print their links there
                    send(tracker)
            except Exception as error:  # a full disk or a lost network must not cost a run
                del self._open[name]
                _note(self.notes, self._tell, _switched_off(name, error))


def open_trackers(
    wanted: Iterable[str | ComponentConfig],
    run_folder: Path,
    config: Mapping[str, Any],
    *,
    start_step: int = 0,
    tell: Tell | None = None,
) -> Trackers:
    """Open trackers: settings of them, or names such as `tensorboard`, `wandb`, `mlflow`, `my_file:MyTracker`.

    ``start_step`` is where a resumed run goes on. What trackers keep of the run, their ids, is read from and written to
    `trackers.json` in the run folder. ``tell`` is called with each note that comes up, at once or during the run.

    Raises:
        ConfigError: there is no such tracker.
        MissingPackage: its package is not installed; TensorBoard, the default, is left out with a note.
    """
    settings = _by_name(wanted)
    path = Path(run_folder) / KEPT
    kept = _read(path)
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name, each in settings.items():
        run = TrackedRun(Path(run_folder), dict(config), start_step, kept.get(name, {}))
        try:
            with redirect_stdout(sys.stderr):
                found[name] = each.owner(each, run)  # pyright: ignore[reportCallIssue]
                kept[name] = found[name].keep()
        except MissingPackage as missing:
            if name != _BY_DEFAULT:
                raise MissingPackage(f"the tracker '{name}' cannot be opened: {missing}") from None
            _note(notes, tell, f"no TensorBoard files: {missing}")
        except Exception as error:
            found.pop(name, None)
            _note(notes, tell, _switched_off(name, error))
    _write(path, {name: ids for name, ids in kept.items() if ids}, notes, tell)
    return Trackers(found, notes, tell)


def refuse_missing(wanted: Iterable[str | ComponentConfig]) -> None:
    """Make sure, before any work, that what trackers need is installed.

    Raises:
        ConfigError: there is no such tracker.
        MissingPackage: a package is not installed. TensorBoard's, the default, may be missing.
    """
    for name, settings in _by_name(wanted).items():
        needs = getattr(settings.owner, "NEEDS", ())
        try:
            if needs:
                require(*needs)
        except MissingPackage as missing:
            raise MissingPackage(f"the tracker '{name}' cannot be opened: {missing}") from None


def _by_name(wanted: Iterable[str | ComponentConfig]) -> dict[str, ComponentConfig]:
    """Return settings by the name of their tracker; the first of two of a kind counts."""
    found: dict[str, ComponentConfig] = {}
    for each in wanted:
        settings = _settings(each) if isinstance(each, str) else each
        found.setdefault(settings.type, settings)
    return found


def _settings(name: str) -> ComponentConfig:
    try:
        return TRACKER.resolve(name).Config()
    except PydanticCustomError as error:
        raise ConfigError(str(error)) from None


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # the trackers will take the run for a new one
        return {}
    return {name: ids for name, ids in found.items() if isinstance(ids, dict)} if isinstance(found, dict) else {}


def _write(path: Path, kept: dict[str, dict[str, Any]], notes: list[str], tell: Tell | None) -> None:
    if not kept:
        return
    try:
        write_file(path, (json.dumps(kept, indent=2) + "\n").encode(), lasting=False)
    except (OSError, TypeError, ValueError) as error:
        _note(notes, tell, f"{path} cannot be written ({error}); when resumed, trackers will take this for a new run")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _switched_off(name: str, error: Exception) -> str:
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 240, placeholder=" ...")
    return f"the tracker '{name}' is switched off: {reason}; the run itself goes on"


def _note(notes: list[str], tell: Tell | None, note: str) -> None:
    notes.append(note)
    if tell is not None:
        tell(note)
