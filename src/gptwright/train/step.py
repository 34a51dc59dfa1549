"""One optimizer step: forward and backward over micro-batches, clip, move.

Shapes: R rows of the global batch, T context.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gptwright.model.batch import Batch
from gptwright.model.gpt import GPT
from gptwright.nn.base import Module
from gptwright.ops.precision import Precision
from gptwright.optim.base import Schedule
from gptwright.train.config import TrainConfig
from gptwright.train.stats import GradientStats
from gptwright.train.working import WorkingCopy

MICRO_BATCH_TOKENS = 16384
"""Tokens worked on at once where `train.micro_batch` does not say."""


def micro_batch_rows(train: TrainConfig, context: int, rows: int | None = None, cut: int = 1) -> int:
    """Return how many rows of ``context`` tokens are worked on at once, of ``rows`` or of a whole step.

    ``cut`` is how many rows each sequence became: `train.micro_batch` counts whole sequences.
    """
    rows = rows or max(1, train.tokens_per_step // context)
    return min(rows, cut * train.micro_batch if train.micro_batch else max(1, MICRO_BATCH_TOKENS // context))


@dataclass(frozen=True)
class StepResult:
    """What a step measured."""

    loss: float
    """Mean cross-entropy of the batch in nats a token, before the step moved anything."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    lr: float
    """Learning rate of the first parameter group."""
    skipped: bool
    """True when the loss or the gradient was not finite and nothing was moved."""
    tokens: int
    """Tokens that were predicted."""
    scale: float = 1.0
    """What the loss was multiplied by, so that fp16 gradients do not vanish."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What components measured, such as `expert_load`: the largest of all layers, and as `..._mean` their mean; with
    `train.gradient_stats` also `grad_norm/<part>` and `grad_noise_scale`."""


class Stepper:
    """Runs steps of one model, optimizer and schedule."""

    def __init__(
        self,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        train: TrainConfig,
        precision: Precision,
    ) -> None:
        self.model, self.optimizer, self.schedule, self.train = model, optimizer, schedule, train
        self.working = WorkingCopy(model, precision.compute_dtype)
        self.working.model.gradient_checkpointing = train.gradient_checkpointing
        self.stats = GradientStats(model) if train.gradient_stats else None
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=precision.compute_dtype == torch.float16)  # pyright: ignore[reportPrivateImportUsage]
        self._loss: Any = torch.compile(self._summed_loss) if train.compile else self._summed_loss
        self.cut = 1
        """Rows that each sequence has been cut into."""
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def step(self, step: int, inputs: Tensor, targets: Tensor, segments: Tensor | None = None) -> StepResult:
        """Train on a batch, the fields of a `Batch` (R, T), as step number ``step``, counted from 0."""
        lr = self._set_lr(step)
        batch = Batch(inputs, targets, segments)
        self.working.refresh()
        self.working.model.train()
        tokens, scale = int(batch.wanted()), self.scaler.get_scale()
        loss = self._accumulate(batch, tokens)
        self.scaler.unscale_(self.optimizer)
        figures = self.stats.figures(scale) if self.stats else {}
        norm = self._clip()
        skipped = not bool(torch.isfinite(norm) & torch.isfinite(loss))
        if not skipped:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        figures = {**self._after_step(skipped=skipped), **figures}
        return StepResult(float(loss), float(norm), lr, skipped, tokens, scale, figures)

    def objective(self, batch: Batch) -> Tensor:
        """Return what a step makes smaller, of the first micro-batch of ``batch``: to be looked at."""
        part = next(self._parts(batch))
        summed, aux = self._summed_loss(*part)
        return summed / part.wanted().clamp(min=1) + aux

    @torch.no_grad()
    def _after_step(self, *, skipped: bool) -> dict[str, float]:
        """Let components do what is due after a step; a skipped one moves none of what checkpoints hold of them."""
        kept = {name: x.clone() for name, x in self._saved_buffers()} if skipped else {}
        found: dict[str, list[float]] = {}
        for module in self.working.model.modules():
            for name, figure in module.after_step().items() if isinstance(module, Module) else ():
                found.setdefault(name, []).append(figure)
        for name, x in self._saved_buffers() if skipped else ():
            x.copy_(kept[name])
        largest = {name: max(figures) for name, figures in found.items()}
        return largest | {f"{name}_mean": sum(figures) / len(figures) for name, figures in found.items()}

    def _saved_buffers(self) -> Iterator[tuple[str, Tensor]]:
        saved = self.working.model.state_dict().keys()
        return ((name, x) for name, x in self.working.model.named_buffers() if name in saved)

    def _set_lr(self, step: int) -> float:
        self.schedule.apply(self.optimizer, step)
        return self.optimizer.param_groups[0]["lr"]

    def _accumulate(self, batch: Batch, tokens: int) -> Tensor:
        """Leave the gradient of the batch's mean loss in the masters, and return that loss."""
        total = torch.zeros((), device=batch.inputs.device)
        if self.stats:
            self.stats.begin()
        for part in self._parts(batch):
            summed, aux = self._loss(*part)
            objective = summed / max(1, tokens) + aux * (part.rows / batch.rows)
            self.scaler.scale(objective).backward()
            self.working.collect()
            if self.stats:
                self.stats.micro_batch(float(part.wanted()))
            total += summed.detach()
        return total / max(1, tokens)

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        return batch.split(micro_batch_rows(self.train, batch.inputs.shape[1], batch.rows, self.cut))

    def _summed_loss(self, inputs: Tensor, targets: Tensor, segments: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy and what components ask to be added to the mean one."""
        model = self.working.model
        seq = model.describe(inputs, segments=segments)
        hidden = model.hidden(inputs, seq)
        train = self.train
        loss = model.summed_loss(hidden, targets, label_smoothing=train.label_smoothing, z_loss=train.z_loss)
        return loss, sum(seq.aux_losses, torch.zeros((), device=loss.device))

    def _clip(self) -> Tensor:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if self.train.clip:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.train.clip, norm)
        return norm
