"""Cross-entropy of next tokens, over logits or straight from hidden states without keeping the logits.

Shapes: N predictions, D width of a hidden state, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.reference import beside

IGNORE = -100
"""Target that counts for nothing."""

CHUNK_ELEMENTS = 1 << 24
"""Logits computed at once by `chunked_loss`: 64 MiB in fp32."""


def loss(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORE,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy in nats a token, computed in fp32.

    Args:
        logits: (..., V).
        targets: (...) int64; ``ignore_index`` marks predictions that do not count.
        ignore_index: the target that does not count.
        label_smoothing: weight of the uniform distribution in the target (Szegedy et al., 2016).
        reduction: ``mean`` over the targets that count, ``sum``, or ``none``.
    """
    return F.cross_entropy(
        logits.flatten(0, -2).float(),
        targets.flatten(),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return ``softcap * tanh(logits / softcap)``, or the logits themselves where there is no bound."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def chunked_loss_reference(
    hidden: Tensor, head: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, softcap: float | None = None
) -> Tensor:
    """Do what `chunked_loss` does, with all logits at once."""
    logits = softcapped(F.linear(hidden, head).float(), softcap)
    return loss(logits, targets, label_smoothing=label_smoothing, reduction="sum")


@beside(chunked_loss_reference)
def chunked_loss(
    hidden: Tensor, head: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, softcap: float | None = None
) -> Tensor:
    """Return the summed cross-entropy of ``hidden @ head.T`` without ever holding all (N, V) logits.

    Gradients are formed chunk by chunk in the forward pass, so nothing is computed twice.

    Args:
        hidden: (N, D).
        head: (V, D), the output embedding.
        targets: (N,) int64, `IGNORE` where a prediction does not count.
        label_smoothing: as in `loss`.
        softcap: bound of the logits, as in `softcapped`.
    """
    return _ChunkedLoss.apply(hidden, head, targets, label_smoothing, softcap)  # pyright: ignore[reportReturnType]


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, label_smoothing: float, softcap: float | None
    ) -> Tensor:
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if wants_head else None
        total = hidden.new_zeros((), dtype=torch.float32)
        rows = max(1, CHUNK_ELEMENTS // len(head))
        for start in range(0, len(hidden), rows):
            part, wanted = hidden[start : start + rows], targets[start : start + rows]
            logits = softcapped(F.linear(part, head).float(), softcap)
            value, grad = _loss_and_grad(logits, wanted, label_smoothing, softcap)
            total += value
            grad = grad.to(head.dtype)
            if grad_hidden is not None:
                torch.mm(grad, head, out=grad_hidden[start : start + rows])
            if grad_head is not None:
                grad_head += grad.mT @ part
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_hidden, grad_head = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad_output.to(grad_hidden.dtype)
        if grad_head is not None:
            grad_head = (grad_head * grad_output).to(ctx.head_dtype)
        return grad_hidden, grad_head, None, None, None


def _loss_and_grad(
    logits: Tensor, targets: Tensor, label_smoothing: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Return the summed loss of fp32 ``logits`` (N, V) and its gradient, (softmax - target) where it counts.

    The gradient is that of the logits before the softcap, whose slope is 1 - (capped / softcap)^2.
    """
    log_probs = logits.log_softmax(-1)
    value = F.nll_loss(log_probs, targets, ignore_index=IGNORE, reduction="sum")
    counts = (targets != IGNORE)[:, None]
    if label_smoothing:
        smooth = -(log_probs.mean(-1, keepdim=True) * counts).sum()
        value = (1 - label_smoothing) * value + label_smoothing * smooth
    grad = log_probs.exp_()
    grad -= label_smoothing / logits.shape[-1]
    index = targets.clamp(min=0)[:, None]
    grad.scatter_add_(1, index, torch.full_like(index, -(1 - label_smoothing), dtype=grad.dtype))
    if softcap is not None:
        grad *= 1 - (logits / softcap).square_()
    return value, grad.mul_(counts)
