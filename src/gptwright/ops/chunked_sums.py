"""Sums over keys that decay and are read by queries, one span of chunks after another.

Shapes: B batch, H heads, T positions, N chunks of C positions, d key width, e value width.
"""

from typing import Any

import torch
from torch import Tensor

from gptwright.ops.chunks import Decays, decays, exact, in_spans, scaled, spans
from gptwright.ops.sequence import Sequence


def decays_in_spans(log_decay: Tensor | None, seq: Sequence) -> list[Decays]:
    """Return what is left of tokens at others in each span, from ``log_decay`` (B or 1, H, T), at most 0, or None."""
    parts = in_spans(None if log_decay is None else log_decay.float(), seq)
    return [decays(part, span) for part, span in zip(parts, spans(seq), strict=True)]


def chunked_sums(
    q: Tensor, k: Tensor, v: Tensor, seq: Sequence, decay: list[Decays], held: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return what queries read of decayed sums of  k v^T.

    Args:
        q: (B, H, T, d).
        k: (B, H, T, d).
        v: (B, H, T, e).
        seq: the batch; padding is not added, a token at position 0 leaves earlier sums behind.
        decay: of each span.
        held: (B, H, d, e) fp32, the sum before the first token.

    Returns:
        (B, H, N, C, e) fp32 for each span, and the sum (B, H, d, e) after the last.
    """
    outs = []
    for span, left, *parts in zip(spans(seq), decay, *(in_spans(x, seq) for x in (q, k, v)), strict=True):
        queries, keys, values = parts
        if span.real is not None:
            keys = keys * span.real[..., None]
        out, held = _Sums.apply(queries, keys, values, held, *left)  # pyright: ignore[reportGeneralTypeIssues]
        outs.append(out)
    return outs, held


class _Sums(torch.autograd.Function):
    """The sums over one span; products are formed again in the backward pass, so that it keeps no more than its inputs.

    Its parts fit into the cache, and what passes keep of them all does not.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        memory: Tensor,
        within: Tensor,
        since: Tensor | None,
        until: Tensor | None,
        across: Tensor,
    ) -> tuple[Tensor, Tensor]:
        given, (q, k, v) = (q, k, v), (exact(x) for x in (q, k, v))
        held = _passed(memory, scaled(k, until).mT @ v, across)  # (B, H, N + 1, d, e)
        ctx.save_for_backward(*given, held, within, since, until, across)
        weights = (q @ k.mT) * within  # (B, H, N, C, C)
        return weights @ v + scaled(q, since) @ held[:, :, :-1], held[:, :, -1].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_memory: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *given, held, within, since, until, across = ctx.saved_tensors
        q, k, v, grad = (exact(x) for x in (*given, grad))
        products, grad_weights = q @ k.mT, grad @ v.mT  # (B, H, N, C, C)
        grad_products = grad_weights * within
        read = torch.cat((scaled(q, since).mT @ grad, grad_memory[:, :, None]), 2)  # (B, H, N + 1, d, e): of held
        gains = (across.mT @ read.flatten(3)).view_as(read)  # of the first memory and of what each chunk adds
        by_memory, by_gains = grad @ held[:, :, :-1].mT, v @ gains[:, :, 1:].mT  # (B, H, N, C, d), before decays
        grads = (
            grad_products @ k + scaled(by_memory, since),
            grad_products.mT @ q + scaled(by_gains, until),
            (products * within).mT @ grad + scaled(k, until) @ gains[:, :, 1:],
        )
        grads = [found.to(x.dtype) for found, x in zip(grads, given, strict=True)]
        if not ctx.needs_input_grad[4]:
            return *grads, gains[:, :, 0], None, None, None, None
        added = torch.cat((held[:, :, :1], scaled(k, until).mT @ v), 2)
        by_decay = (
            grad_weights * products,
            (by_memory * q).sum(-1, keepdim=True),
            (by_gains * k).sum(-1, keepdim=True),
            read.flatten(3) @ added.flatten(3).mT,
        )
        shapes = (x.shape for x in (within, since, until, across))
        return *grads, gains[:, :, 0], *(x.sum_to_size(shape) for x, shape in zip(by_decay, shapes, strict=True))


def _passed(memory: Tensor, gains: Tensor, across: Tensor) -> Tensor:
    """Return the sums after each chunk (B, H, N + 1, ...), the one before the first included."""
    sums = torch.cat((memory[:, :, None], gains), 2)
    return (across @ sums.flatten(3)).view_as(sums)
