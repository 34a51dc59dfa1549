"""Weights averaged over steps: what training leaves as noise cancels out.

`ema` is an exponential moving average (after Polyak and Juditsky, 1992), `tail` the
plain mean over the last steps (https://arxiv.org/abs/2306.03241). Training never sees them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gptwright.train.config import Average


class AveragedWeights:
    """The average of a model's trained weights, in fp32; without ``settings``, nothing."""

    def __init__(self, settings: Average | None, model: nn.Module, steps: int) -> None:
        self.settings = settings
        named = {name: p for name, p in model.named_parameters() if p.requires_grad} if settings else {}
        self._names, self._weights = list(named), list(named.values())
        self._first = steps - max(1, round(settings.fraction * steps)) if settings else 0
        self._average: list[Tensor] = []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps, counted from 1."""
        share = self._share(step)
        if share is None:
            self._average = []
        elif not self._average:
            self._average = [weight.detach().clone() for weight in self._weights]
        else:
            torch._foreach_lerp_(self._average, self._weights, share)  # pyright: ignore

    def _share(self, step: int) -> float | None:
        """Return what the newest weights count; None where there is no average yet."""
        if self.settings is None:
            return None
        if self.settings.over == "ema":
            return 1 - min(self.settings.decay, (1 + step) / (10 + step))
        return 1 / (step - self._first) if step > self._first else None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model hold the average inside the block, and its own weights, bit for bit, after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for weight, average in zip(self._weights, self._average, strict=bool(self._average)):
            weight.data, average.data = average.data, weight.data

    def tensors(self) -> dict[str, Tensor]:
        """Return the average by the names of the weights, empty where there is none yet."""
        return dict(zip(self._names, self._average, strict=bool(self._average)))

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` returned."""
        self._average = [tensors[name].clone() for name in self._names] if tensors else []
