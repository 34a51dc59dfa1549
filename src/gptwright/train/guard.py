"""Watching over steps: one whose loss or gradient is not finite moves nothing; many in a row are a fault."""

from collections.abc import Mapping
from typing import Any

import torch

from gptwright.ops.precision import Precision
from gptwright.train.step import StepResult


class Guard:
    """Counts skipped steps. After ``limit`` of them in a row, `tripped` names the one with which they began."""

    def __init__(self, limit: int, precision: Precision) -> None:
        self._limit, self._scaled = limit, precision.compute_dtype == torch.float16
        self.skipped = 0
        """Steps of the run that moved nothing."""
        self._in_row: list[int] = []
        self.went_back_at: int | None = None
        """The step at which the run failed before it last went back to a checkpoint."""

    def see(self, step: int, result: StepResult) -> bool:
        """Take note of step number ``step``; say whether it is the first skipped one after a good one."""
        self.skipped += result.skipped
        if not result.skipped or self._finds_scale(result):
            self._in_row = []
            return False
        self._in_row.append(step)
        return len(self._in_row) == 1

    def _finds_scale(self, result: StepResult) -> bool:
        """Say whether the step only overflowed fp16: the scaler lowers its scale, and the next one may pass."""
        return self._scaled and result.loss == result.loss and abs(result.loss) != float("inf") and result.scale > 1

    @property
    def tripped(self) -> int | None:
        """The first of too many skipped steps in a row, or None."""
        return self._in_row[0] if len(self._in_row) >= self._limit else None

    @property
    def may_go_back(self) -> bool:
        """Whether going back to a checkpoint is worth a try: not if that was done for the very same step."""
        first = self.tripped
        return first is not None and (self.went_back_at is None or first > self.went_back_at)

    def go_back(self) -> None:
        """Remember where the run failed, and count anew."""
        self.went_back_at, self._in_row = self.tripped, []

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"skipped": self.skipped, "in_row": self._in_row, "went_back_at": self.went_back_at}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.skipped, self._in_row = state["skipped"], list(state["in_row"])
        self.went_back_at = state["went_back_at"]
