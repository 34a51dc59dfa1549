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
        out = torch.empty_like(q)
        future = torch.ones(block, block, dtype=torch.bool, device=q.device).triu(1)
        nothing = q.new_zeros(1, 1, 1)
        kept = []
        for start in range(0, length, block):
            stop = min(start + block, length)
            scores = torch.baddbmm(nothing, q[:, start:stop], k[:, :stop].mT, beta=0, alpha=scale)  # (N, C, stop)
            scores[:, :, start:].masked_fill_(future[: stop - start, : stop - start], -torch.inf)
            probs = scores.softmax(-1)
            out[:, start:stop] = torch.bmm(probs, v[:, :stop])
            kept.append(probs)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, *kept = ctx.saved_tensors
        length, block, scale = q.shape[1], _block(q.shape[1]), 1 / math.sqrt(q.shape[2])
        grad = grad.contiguous()
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for index, probs in enumerate(kept):
            start, stop = index * block, min((index + 1) * block, length)
            above = grad[:, start:stop]
            grad_v[:, :stop] += torch.bmm(probs.mT, above)
            grad_probs = torch.bmm(above, v[:, :stop].mT)
            grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)  # pyright: ignore[reportPrivateImportUsage]
            grad_q[:, start:stop] = torch.bmm(grad_scores, k[:, :stop])
            grad_k[:, :stop] += torch.bmm(grad_scores.mT, q[:, start:stop])
        return grad_q.mul_(scale), grad_k.mul_(scale), grad_v
