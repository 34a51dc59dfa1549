"""Who hears of a run: its folder's files, the person at the terminal, trackers and callbacks, in this order."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gptwright.config.slot import ComponentConfig
from gptwright.model.score import Score
from gptwright.train.callback import Callback, Run
from gptwright.train.display import Display
from gptwright.train.plan import Portion
from gptwright.train.report.page import write_report
from gptwright.train.result import TrainResult
from gptwright.train.run import RunFolder
from gptwright.train.setup import Setup
from gptwright.train.step import StepResult
from gptwright.train.track import Trackers, open_trackers
from gptwright.train.work import Work

try:
    import resource
except ImportError:  # Windows
    resource = None


class Telling:
    """Tells everybody what happens."""

    def __init__(self, setup: Setup, folder: RunFolder, display: Display) -> None:
        self._setup, self._folder, self._display = setup, folder, display
        self._callbacks = [_built(config) for config in setup.config.train.callbacks]
        self._trackers = Trackers({}, [], None)
        self._since = (0, 0.0)  # tokens and seconds at the last line
        self._flops_per_token: dict[int, int] = {}
        self.peak = math.nan
        """FLOP/s that matrix products reach on this machine."""

    def callback_states(self) -> list[dict[str, Any]]:
        """Return what each callback wants to be kept."""
        return [callback.state() for callback in self._callbacks]

    def restore(self, state: Mapping[str, Any], work: Work) -> None:
        """Go on as the run stood when ``state`` was saved."""
        self.count_from(work)
        if len(state["callbacks"]) == len(self._callbacks):  # others were chosen: they begin anew
            for callback, kept in zip(self._callbacks, state["callbacks"], strict=True):
                callback.restore(kept)

    def count_from(self, work: Work) -> None:
        """Count speed from where ``work`` stands."""
        self._since = (work.tokens, work.seconds)

    def start(self, run: Run) -> None:
        """The run begins, or goes on."""
        self._open_trackers(run.step)
        for callback in self._callbacks:
            callback.on_start(run)

    def went_back(self, run: Run) -> None:
        """The run stands at an earlier step: what trackers hold of later ones is superseded."""
        self._trackers.close()
        self._open_trackers(run.step)

    def _open_trackers(self, step: int) -> None:
        names, settings = self._setup.config.train.trackers, self._setup.config.to_dict()
        tell = self._display.warning
        self._trackers = open_trackers(names, self._folder.folder, settings, start_step=step, tell=tell)

    def stepped(self, run: Run, result: StepResult) -> None:
        """A step was taken."""
        for callback in self._callbacks:
            callback.on_step(run, result)

    def log(self, run: Any, result: StepResult, portion: Portion) -> None:
        """A line of training metrics is due."""
        work: Work = run.work
        tokens, seconds = work.tokens - self._since[0], work.seconds - self._since[1]
        self._since = (work.tokens, work.seconds)
        speed = tokens / max(seconds, 1e-9)
        row = {
            **_clock(work),
            **self._epochs(portion),
            "loss": _plain(result.loss),
            "lr": result.lr,
            "grad_norm": _plain(result.grad_norm),
            "tokens_per_second": speed,
            "peak_fraction": speed * self._flops(portion.length) / self.peak,
            "memory_bytes": memory_bytes(),
            "skipped_steps": work.guard.skipped,
            **{name: _plain(figure) for name, figure in result.figures.items()},
        }
        self._folder.log(row)
        self._display.log(row)
        self._trackers.log(work.step, row)
        for callback in self._callbacks:
            callback.on_log(run, row)

    def _epochs(self, portion: Portion) -> dict[str, float]:
        """Return how often the training text has been seen, of a mixture also each part of it."""
        data, rows = self._setup.data, portion.first + portion.rows
        parts = data.epochs(rows)
        more = {f"epoch/{name}": seen for name, seen in parts.items()} if len(parts) > 1 else {}
        return {"epoch": rows / data.rows_per_epoch, **more}

    def _flops(self, length: int) -> int:
        if length not in self._flops_per_token:
            self._flops_per_token[length] = self._setup.config.model.flops_per_token(length)
        return self._flops_per_token[length]

    def evaluated(self, run: Any, score: Score, *, extra: bool) -> None:
        """The validation split was scored; an ``extra`` time, which an uninterrupted run would not have had, is shown
        and not kept."""
        parts = {f"val_loss/{name}": _plain(part.loss) for name, part in score.parts.items()}
        row = {
            **_clock(run.work),
            "val_loss": _plain(score.loss),
            "val_bits_per_byte": _plain(score.bits_per_byte),
            **parts,
        }
        self._display.evaluated(row)
        if extra:
            return
        self._folder.log(row)
        self._trackers.log(run.step, row)
        for callback in self._callbacks:
            callback.on_evaluation(run, row)
        write_report(self._folder.folder)

    def sample(self, run: Any, text: str) -> None:
        """The model wrote something."""
        self._folder.add_sample(run.step, run.tokens, text)
        self._display.sample(run.step, text)
        self._trackers.text(run.step, "sample", text)
        for callback in self._callbacks:
            callback.on_sample(run, text)

    def saved(self, run: Run, folder: Path) -> None:
        """A checkpoint is being written."""
        for callback in self._callbacks:
            callback.on_checkpoint(run, folder)

    def end(self, run: Any, result: TrainResult) -> None:
        """The run has ended."""
        self._folder.summarise({**result.to_dict(), "params": self._setup.config.model.num_params()})
        if result.stopped_because:
            self._display.message(result.stopped_because)
        for callback in self._callbacks:
            callback.on_end(run, result)
        self._trackers.close()
        write_report(self._folder.folder)


def memory_bytes() -> int:
    """Return the most memory that this process has held: of its GPU where it has one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _built(config: ComponentConfig) -> Callback:
    return config.owner(config)  # pyright: ignore[reportReturnType, reportCallIssue]


def _clock(work: Work) -> dict[str, Any]:
    return {"step": work.step, "tokens": work.tokens, "train_seconds": work.seconds}


def _plain(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return value if math.isfinite(value) else None
