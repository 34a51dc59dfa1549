"""Weights & Biases, through its own client."""

import html
import os
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from gptwright.config.slot import ComponentConfig
from gptwright.train.track.base import TrackedRun, Tracker, package, tag


class Wandb(Tracker):
    """A run at Weights & Biases, or in `RUN/wandb` when offline; environment variables WANDB_... are honoured.

    A run that goes on continues the same one. Its client takes no line for a step that the server has already: what
    lies after the checkpoint stays as it was sent, and is the same, since a resumed run repeats itself exactly.
    """

    NEEDS = ("wandb", "wandb")

    class Config(ComponentConfig):
        project: str | None = None
        """Default: WANDB_PROJECT, else `gptwright`."""
        entity: str | None = None
        """User or team. Default: WANDB_ENTITY, else that of the login."""
        mode: Literal["online", "offline", "disabled"] | None = None
        """`offline` writes files that `wandb sync` sends later. Default: WANDB_MODE, else `online`."""
        tags: list[str] = Field(default_factory=list)
        """Labels of the run."""

    def __init__(self, config: Any, run: TrackedRun) -> None:
        super().__init__(config, run)
        self._wandb = package(*self.NEEDS)
        quiet = self._wandb.Settings(console=os.environ.get("WANDB_CONSOLE", "off"))  # a live bar is no log
        self._run = self._wandb.init(
            id=run.kept.get("id") or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8],
            resume="allow",
            reinit="create_new",
            project=config.project or os.environ.get("WANDB_PROJECT") or "gptwright",
            entity=config.entity,
            mode=config.mode,
            tags=config.tags or None,
            name=os.environ.get("WANDB_NAME") or run.name,
            dir=str(run.folder),
            config=dict(run.config),
            settings=quiet,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log numbers under `train/` and `val/`."""
        self._run.log({tag(name): value for name, value in metrics.items()}, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text as preformatted HTML."""
        self._run.log({name: self._wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def close(self) -> None:
        """End the session; a later one may go on."""
        self._run.finish()

    def keep(self) -> dict[str, Any]:
        """Return the run's id, and where it can be seen."""
        url = self._run.url
        return {"id": self._run.id, **({"url": url} if url else {})}
