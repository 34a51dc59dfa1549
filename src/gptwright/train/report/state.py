"""Whether a run trains now, and how it ended if not."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptwright.train.lock import LOCK
from gptwright.train.report.read import Run
from gptwright.train.report.words import number

try:
    import fcntl
except ImportError:  # Windows: no locks, so no run is known to be running
    fcntl = None


@dataclass(frozen=True)
class State:
    """How a run stands."""

    name: str
    """`running`, `finished`, `stopped` (early, on purpose), `interrupted`, or `empty`."""
    step: int
    """The last step known."""
    steps: int | None
    """The steps that were planned."""
    because: str = ""
    """Why it stopped early."""

    @property
    def words(self) -> str:
        """The state as a person reads it."""
        of = f"{self.step:,} of {self.steps:,}" if self.steps else f"{self.step:,}"
        words = {
            "running": f"training now, step {of}" if self.step else "training now",
            "finished": f"finished, {self.step:,} steps",
            "stopped": f"stopped at step {of}",
            "interrupted": f"interrupted at step {of}",
            "empty": "no steps yet",
        }
        return words[self.name] + (f": {self.because}" if self.because else "")


def state(run: Run) -> State:
    """Return how a run stands: its lock tells whether a trainer holds the folder, its files the rest."""
    step, planned = last_step(run), number(_train(run).get("steps"))
    steps = int(planned) if math.isfinite(planned) else None
    because = str(run.summary.get("stopped_because") or "")
    ended = bool(run.summary) and number(run.summary.get("step")) >= step  # a resumed run is ahead of its old summary
    if held(run.folder) and not (ended and _all_done(run, step, steps)):
        return State("running", step, steps)
    if ended and because:
        return State("stopped", step, steps, because)
    if not step:
        return State("empty", step, steps)
    whole = step >= steps if steps is not None else not run.summary.get("interrupted")
    return State("finished" if whole else "interrupted", step, steps)


def held(folder: Path) -> bool:
    """Return whether a trainer holds the lock of a run folder; it is let go when its holder dies."""
    if fcntl is None:
        return False
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk that knows no locks
        return False
    finally:
        os.close(handle)
    return False


def last_step(run: Run) -> int:
    """Return the last step that any file of the run knows."""
    steps = [*(part["step"][-1] for part in (run.train, run.val) if "step" in part and part["step"].size)]
    steps.append(number(run.summary.get("step")))
    return int(max((step for step in steps if math.isfinite(step)), default=0))


def _all_done(run: Run, step: int, steps: int | None) -> bool:
    """Whether the summary is that of the end, written while the trainer still holds its lock."""
    return step == steps or bool(run.summary.get("stopped_because") or run.summary.get("interrupted"))


def _train(run: Run) -> dict[str, Any]:
    found = run.config.get("train")
    return found if isinstance(found, dict) else {}
