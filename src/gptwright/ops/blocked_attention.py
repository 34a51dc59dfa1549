"""Causal attention on a CPU, by blocks of queries that meet only the keys they may see.

torch's CPU kernel skips future keys by blocks of 512 and multiplies in fp32 whatever the inputs; for the
lengths that small models train at, plain batched products in the inputs' own precision, over the causal
half only, are about twice as fast (``benchmarks/attention.py``). Scores are rounded to the precision of
the inputs and the softmax computed in fp32. The probabilities are kept for the backward pass: memory
grows with T^2 / 2, which is why long sequences are left to torch.

Shapes: N batch times heads, T positions, C positions of a block, d head width.
"""

import math
from typing import Any

import torch
from torch import Tensor

LONGEST = 2048
"""Positions beyond which the kept probabilities would cost more than they save."""


def suits_blocks(q: Tensor) -> bool:
    """Whether causal attention over ``q`` (B, H, T, d) is faster by blocks than by torch's fused kernel."""
    shortest = 32 if q.dtype == torch.bfloat16 else 128
    return q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float32) and shortest <= q.shape[2] <= LONGEST


def blocked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix values causally: ``q``, ``k``, ``v`` (B, H, T, d) -> (B, H, T, d), differentiable once."""
    flat = (x.flatten(0, 1) for x in (q, k, v))  # (N, T, d)
    return _Blocked.apply(*flat).view(q.shape)  # pyright: ignore[reportOptionalMemberAccess]


def _block(length: int) -> int:
    return 64 if length <= 512 else 128


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length, block, scale = q.shape[1], _block(q.shape[1]), 1 / math.sqrt(q.shape[2])
        future = torch.full((block, block), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
        nothing = q.new_zeros(1, 1, 1)
        mixed, kept = [], []
        for start in range(0, length, block):
            stop = min(start + block, length)
            scores = torch.baddbmm(nothing, q[:, start:stop], k[:, :stop].mT, beta=0, alpha=scale)  # (N, C, stop)
            scores[:, :, start:] += future[: stop - start, : stop - start]
            kept.append(scores.softmax(-1))
            mixed.append(torch.bmm(kept[-1], v[:, :stop]))
        ctx.save_for_backward(q, k, v, *kept)
        return torch.cat(mixed, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, *kept = ctx.saved_tensors
        length, block, scale = q.shape[1], _block(q.shape[1]), 1 / math.sqrt(q.shape[2])
        grads_q, grad_k, grad_v = [], q.new_zeros(()), q.new_zeros(())
        for index, probs in reversed(list(enumerate(kept))):  # the last block meets all keys: its gradients come whole
            start, stop = index * block, min((index + 1) * block, length)
            above = grad[:, start:stop]
            grad_probs = torch.bmm(above, v[:, :stop].mT)
            grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)  # pyright: ignore[reportPrivateImportUsage]
            grads_q.insert(0, torch.bmm(grad_scores, k[:, :stop]))
            grad_k = _added(grad_k, torch.bmm(grad_scores.mT, q[:, start:stop]))
            grad_v = _added(grad_v, torch.bmm(probs.mT, above))
        return torch.cat(grads_q, 1).mul_(scale), grad_k.mul_(scale), grad_v


def _added(total: Tensor, part: Tensor) -> Tensor:
    """Add a block's gradient, which reaches only the first keys; the first one given is the whole."""
    if total.ndim == 0:
        return part
    total[:, : part.shape[1]] += part
    return total
