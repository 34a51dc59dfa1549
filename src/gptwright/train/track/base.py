"""The contract of a tracker: one place that numbers and texts of a run are sent to."""

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from gptwright.config.slot import Component, Slot
from gptwright.errors import GptwrightError

TRACKER = Slot("tracker", package="gptwright.train.track.kinds", base="gptwright.train.track.base:Tracker")


class MissingPackage(GptwrightError):  # noqa: N818 - it says what is missing
    """The package behind a tracker is not installed; the message has the line that installs it."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of the run when it is opened."""

    folder: Path
    """The run folder, which exists."""
    config: Mapping[str, Any]
    """All settings, as plain data."""
    start_step: int = 0
    """Steps taken so far; more than 0 when the run goes on. What was sent for later steps is superseded."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """What `Tracker.keep` returned when the run was opened before."""

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.folder.resolve().name


class Tracker(Component):
    """Somewhere to send numbers and texts to; this one sends nothing.

    `Class(config, run)` opens it, with a `TrackedRun`. An error at opening or later switches the tracker off with a
    note; it never ends the run. A missing package does, before any work.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ()
    """The package that must be installed, and the extra of gptwright that brings it; nothing where none is needed."""

    def __init__(self, config: Any, run: TrackedRun) -> None:
        self.config, self.run = config, run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers of one step, named as in `metrics.jsonl`: `loss`, `val_loss`, `grad_norm/layers.0`."""

    def text(self, step: int, name: str, text: str) -> None:
        """Record a text, for example a sample."""

    def close(self) -> None:
        """Write out what is left."""

    def keep(self) -> dict[str, Any]:
        """Return plain data that the next opening of the same run is given, for example an id."""
        return {}


def require(name: str, extra: str) -> None:
    """Make sure that the package of a tracker is installed.

    Raises:
        MissingPackage: it is not.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # a mere folder of that name, such as `wandb` leaves behind, is no package
        raise MissingPackage(
            f"the package '{name}' is not installed, which this tracker needs; pip install 'gptwright[{extra}]'"
        )


def package(name: str, extra: str) -> ModuleType:
    """Import the package of a tracker.

    Raises:
        MissingPackage: it is not installed.
    """
    require(name, extra)
    return importlib.import_module(name)


def tag(name: str) -> str:
    """Return a metric's name sorted under `train/` or `val/`, as dashboards group them."""
    return f"val/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return settings as one level of dotted names and short texts."""
    found: dict[str, str] = {}
    for name, value in config.items():
        path = prefix + re.sub(r"[^\w.-]", "_", str(name))
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{path}.")
        else:
            found[path] = str(value)[:500]
    return found
