"""Stop a run that no longer gets better on text that it does not learn from."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeFloat, PositiveInt

from gptwright.train.callback import Callback, Run


class EarlyStopping(Callback):
    """Ends the run when the validation loss has not fallen for some evaluations; the best checkpoint is kept."""

    class Config(Callback.Config):
        patience: PositiveInt = 3
        """Evaluations in a row without a new lowest validation loss after which the run stops."""
        min_delta: NonNegativeFloat = 0.0
        """Nats a token by which the loss must be lower to count."""

    EXAMPLES = ({}, {"patience": 1, "min_delta": 0.01})

    config: Config

    def __init__(self, config: Any, ctx: Any = None) -> None:
        super().__init__(config, ctx)
        self.best, self.waited = math.inf, 0

    def on_evaluation(self, run: Run, row: Mapping[str, Any]) -> None:
        """Compare with the best so far."""
        loss = row["val_loss"] if row["val_loss"] is not None else math.inf
        if loss < self.best - self.config.min_delta:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.config.patience:
            since = f"for {self.waited} evaluations"
            run.stop(f"early stopping: the validation loss has not fallen below {self.best:.4f} {since}")

    def state(self) -> dict[str, Any]:
        """Return the best loss, None before any, and how long ago it was."""
        return {"best": self.best if math.isfinite(self.best) else None, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take both back."""
        self.best = math.inf if state["best"] is None else state["best"]
        self.waited = state["waited"]
