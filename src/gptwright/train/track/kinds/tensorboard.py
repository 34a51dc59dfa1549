"""TensorBoard: event files beside the run."""

import json
from collections.abc import Mapping
from typing import Any

from gptwright.config.slot import ComponentConfig
from gptwright.train.track.base import TrackedRun, Tracker, package, tag

FLUSH_SECONDS = 15
"""After so long a line is on the disk, even if the run is killed."""


class TensorBoard(Tracker):
    """Event files in `RUN/tensorboard`, read with `tensorboard --logdir RUN`."""

    class Config(ComponentConfig):
        """Nothing to set."""

    def __init__(self, config: Any, run: TrackedRun) -> None:
        super().__init__(config, run)
        package("tensorboard", "track")
        writer = package("torch.utils.tensorboard", "track").SummaryWriter
        purge = run.start_step + 1 if run.start_step else None  # the step that the run goes on from stays
        self._writer = writer(str(run.folder / "tensorboard"), purge_step=purge, flush_secs=FLUSH_SECONDS)
        settings = json.dumps(run.config, indent=2, default=str)
        self._writer.add_text("config", f"```json\n{settings}\n```", run.start_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add scalars under `train/` and `val/`."""
        for name, value in metrics.items():
            self._writer.add_scalar(tag(name), value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text, shown as it is."""
        indented = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown for: as it is
        self._writer.add_text(name, indented, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
