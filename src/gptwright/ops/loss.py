"""Cross-entropy of next tokens, over logits or straight from hidden states without keeping the logits.

Shapes: N predictions, D width of a hidden state, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gptwright.ops.reference import beside

IGNORE = -100
"""Target that counts for nothing."""

CHUNK_ELEMENTS = 1 << 24
"""Logits computed at once by `chunked_loss`: 64 MiB in fp32."""

_PRODUCT_ROWS = 8192
"""Rows of the head whose gradient in a low precision is there at once."""


def loss(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORE,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy in nats a token, computed in fp32.

    Args:
        logits: (..., V).
        targets: (...) int64; ``ignore_index`` marks predictions that do not count.
        ignore_index: the target that does not count.
        label_smoothing: weight of the uniform distribution in the target (Szegedy et al., 2016,
            https://arxiv.org/abs/1512.00567).
        z_loss: weight of the squared logarithm of softmax's denominator, which is added to each prediction's loss
            and keeps logits from drifting away together (Chowdhery et al., 2022, https://arxiv.org/abs/2204.02311,
            use 1e-4).
        reduction: ``mean`` over the targets that count, ``sum``, or ``none``.
    """
    rows, wanted = logits.flatten(0, -2).float(), targets.flatten()
    entropy = F.cross_entropy(
        rows, wanted, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )
    if not z_loss:
        return entropy
    counts = wanted != ignore_index
    squares = rows.logsumexp(-1).square().masked_fill(~counts, 0.0)
    total = squares if reduction == "none" else squares.sum()
    return entropy + z_loss * (total / counts.sum() if reduction == "mean" else total)


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return ``softcap * tanh(logits / softcap)``, or the logits themselves where there is no bound."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def chunked_loss_reference(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Do what `chunked_loss` does, with all logits at once."""
    logits = softcapped(F.linear(hidden.to(head.dtype), head, bias).float(), softcap)
    return loss(logits, targets, label_smoothing=label_smoothing, z_loss=z_loss, reduction="sum")


@beside(chunked_loss_reference)
def chunked_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Return the summed cross-entropy of ``hidden @ head.T + bias`` without ever holding all (N, V) logits.

    Gradients are formed chunk by chunk in the forward pass, so nothing is computed twice, and all chunks share one
    buffer: with z the logits and p = softmax(z), the gradient of z is p (1 + 2 z_loss log sum exp z) - target.

    Args:
        hidden: (N, D).
        head: (V, D), the output embedding.
        targets: (N,) int64, `IGNORE` where a prediction does not count.
        bias: (V,) in the dtype of ``head``, added to the logits; or None.
        label_smoothing: as in `loss`.
        z_loss: as in `loss`.
        softcap: bound of the logits, as in `softcapped`.
    """
    rule = _Rule(label_smoothing, z_loss, softcap)
    return _ChunkedLoss.apply(hidden.to(head.dtype), head, bias, targets, rule)  # pyright: ignore[reportReturnType]


class _Rule(NamedTuple):
    """What `loss` and `softcapped` are told."""

    label_smoothing: float
    z_loss: float
    softcap: float | None


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, targets: Tensor, rule: _Rule) -> Tensor:
        wants_hidden, wants_head, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format) if wants_hidden else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if wants_head else None
        grad_bias = hidden.new_zeros(len(head), dtype=torch.float32) if wants_bias else None
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        rows = _chunk_rows(len(hidden), len(head))
        buffer = hidden.new_empty((rows, len(head)), dtype=torch.float32)
        low = buffer if head.dtype == torch.float32 else hidden.new_empty(buffer.shape, dtype=head.dtype)
        for start in range(0, len(hidden), rows):
            part, wanted = hidden[start : start + rows], targets[start : start + rows]
            logits, narrow = buffer[: len(part)], low[: len(part)]  # (rows, V), both
            _logits_into(narrow, part, head, bias)
            if low is not buffer:
                logits.copy_(narrow)
            losses[start : start + rows] = _turn_into_gradient(
                logits, wanted, rule, gradient=wants_hidden or wants_head or wants_bias
            )
            if grad_bias is not None:
                grad_bias += logits.sum(0)
            if low is not buffer:
                narrow.copy_(logits)
            if grad_hidden is not None:
                torch.mm(narrow, head, out=grad_hidden[start : start + rows])
            if grad_head is not None:
                _add_product(grad_head, narrow.mT, part)
        ctx.save_for_backward(grad_hidden, grad_head, grad_bias)
        ctx.head_dtype = head.dtype
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_hidden, grad_head, grad_bias = ctx.saved_tensors
        scale = torch.mul if _backward_may_come_again() else Tensor.mul_
        if grad_hidden is not None:
            grad_hidden = scale(grad_hidden, grad_output)
        if grad_head is not None:
            grad_head = scale(grad_head, grad_output).to(ctx.head_dtype)
        if grad_bias is not None:
            grad_bias = scale(grad_bias, grad_output).to(ctx.head_dtype)
        return grad_hidden, grad_head, grad_bias, None, None


def _logits_into(out: Tensor, hidden: Tensor, head: Tensor, bias: Tensor | None) -> None:
    """Write the logits of ``hidden`` into ``out``."""
    if bias is None:
        torch.mm(hidden, head.mT, out=out)
    else:
        torch.addmm(bias, hidden, head.mT, out=out)


def _chunk_rows(rows: int, vocab: int) -> int:
    """Return how many of ``rows`` predictions are worked on at once: chunks of one size, the last a little smaller."""
    chunks = -(-rows // max(1, CHUNK_ELEMENTS // vocab))
    return -(-rows // max(1, chunks)) or 1


def _turn_into_gradient(logits: Tensor, targets: Tensor, rule: _Rule, *, gradient: bool) -> Tensor:
    """Return the loss (N,) of each row of fp32 ``logits`` (N, V), and leave their gradient in their place.

    The gradient is that of the logits before the softcap, whose slope is 1 - tanh^2; it is only formed where
    ``gradient`` asks for it.
    """
    counts = (targets != IGNORE)[:, None]  # (N, 1), as all that follows but logits
    index = targets[:, None].masked_fill(~counts, 0)
    slope = None
    if rule.softcap is not None:
        logits.div_(rule.softcap).tanh_()
        slope = 1 - logits.square() if gradient else None
        logits.mul_(rule.softcap)
    at_target, smooth = logits.gather(1, index), rule.label_smoothing
    value = -(1 - smooth) * at_target - (smooth * logits.mean(-1, keepdim=True) if smooth else 0.0)
    highest = logits.amax(-1, keepdim=True)
    total = logits.sub_(highest).exp_().sum(-1, keepdim=True)
    log_total = highest + total.log()
    value = (value + log_total + rule.z_loss * log_total.square()).masked_fill(~counts, 0.0)
    if gradient:
        logits.mul_((counts * (1 + 2 * rule.z_loss * log_total)).div_(total))
        if smooth:
            logits.sub_(counts * (smooth / logits.shape[1]))
        logits.scatter_add_(1, index, counts * torch.full_like(at_target, smooth - 1))
        if slope is not None:
            logits.mul_(slope)
    return value[:, 0]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to fp32 ``total`` in place; a product in another dtype is only ever there in part."""
    if right.dtype == total.dtype:
        total.addmm_(left, right)
        return
    rows = len(total) if torch.compiler.is_compiling() else _PRODUCT_ROWS
    for start in range(0, len(total), rows):
        total[start : start + rows] += left[start : start + rows] @ right


def _backward_may_come_again() -> bool:
    """Say whether this backward pass keeps its graph (``retain_graph``); where it does not, its tensors are free."""
    return torch.compiler.is_compiling() or torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore[reportAttributeAccessIssue]
