"""Exact attention by blocks of queries that meet only the keys they may see.

torch's CPU kernel skips future keys by blocks of 512, never skips keys under a mask, and multiplies in fp32
whatever the inputs; plain batched products in the inputs' own precision, over the visible part only, are
about twice as fast (``benchmarks/attention.py``, ``benchmarks/lengths.py``). Scores are rounded to the
precision of the inputs and the softmax is computed in fp32. Heads are taken in groups small enough for a
block's scores to stay in the cache. Up to `LONGEST` positions the weights are kept for the backward pass;
beyond, under a window, and wherever scores are more than scaled, they are computed again, block by block
(Chen et al., 2016, https://arxiv.org/abs/1604.06174), so that memory grows with T and never with T^2.

Shapes: B batch, H query heads, K key-value heads, N = B * K, G = H / K query heads of a key-value head, T
query positions, S key positions, C positions of a block, W keys that a block meets, d head width, e value
width, n a group of the N.
"""

import math
from typing import Any

import torch
from torch import Tensor

from gptwright.ops.attention_blocks import (
    LONGEST,
    Cell,
    Scores,
    Task,
    Weights,
    block_length,
    products,
    through,
    to_keys,
    wide,
)
from gptwright.ops.attention_reference import sighted_reference
from gptwright.ops.attention_rules import PLAIN, Pair, Scoring, Sight
from gptwright.ops.reference import beside

FEW = 8
"""Blocks whose gradients may be added in the precision of the inputs; more are added in fp32."""


def suits_blocks(q: Tensor) -> bool:
    """Whether causal attention over ``q`` (B, H, T, d) is faster by blocks than by torch's fused kernel."""
    shortest = 32 if q.dtype == torch.bfloat16 else 128
    longest = LONGEST if torch.compiler.is_compiling() else math.inf  # a graph holds every block one by one
    return q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float32) and shortest <= q.shape[2] <= longest


@beside(sighted_reference)
def blocked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sight: Sight,
    *,
    scoring: Scoring = PLAIN,
    positions: Pair | None = None,
) -> Tensor:
    """Mix values by blocks, differentiable once.

    Args:
        q: (B, H, T, d).
        k: (B, K, S, d), H a multiple of K.
        v: (B, K, S, e).
        sight: which keys each query sees.
        scoring: what happens to scores. Gradients reach its sinks; softcap and slopes are constants.
        positions: where queries (B or 1, T) and keys (B or 1, S) stand, for slopes; by default at their indices.

    Returns:
        (B, H, T, e).
    """
    batch, heads, kv_heads = q.shape[0], q.shape[1], k.shape[1]
    grouped = q.reshape(batch * kv_heads, heads // kv_heads, *q.shape[2:])  # (N, G, T, d)
    k, v = k.reshape(batch * kv_heads, *k.shape[2:]), v.reshape(batch * kv_heads, *v.shape[2:])  # (N, S, .)
    if scoring.slopes is not None and positions is None:
        at = torch.arange(k.shape[1], device=q.device)[None]
        positions = at[:, -q.shape[2] :], at
    seed = int(torch.randint(2**31, ())) if scoring.dropout else 0
    sinks = None if scoring.sinks is None else scoring.sinks.view(kv_heads, -1).repeat(batch, 1)  # (N, G)
    slopes = None if scoring.slopes is None else scoring.slopes.view(kv_heads, -1).repeat(batch, 1)
    task = Task(
        sight, kv_heads, scoring.scale or 1 / math.sqrt(q.shape[-1]), scoring.softcap, slopes, positions,
        scoring.dropout, seed,
    )  # fmt: skip
    mixed: Any = _Blocked.apply(grouped, k, v, sinks, task)
    return mixed.view(*q.shape[:3], -1)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, task: Task) -> Tensor:
        mixed = q.new_empty(*q.shape[:3], v.shape[2])  # (N, G, T, e)
        keeps = task.is_plain and sinks is None and task.sight.window is None and k.shape[1] <= LONGEST
        keeps = keeps and any(ctx.needs_input_grad)
        scores, drops, kept = Scores(q, k, sinks, task), _Drops(task, q.device), []
        for index, cell in enumerate(task.cells(q, k)):
            weights = scores.weights(cell).kept
            if keeps:
                kept.append(weights)
            weights = drops.drop(index, weights).to(v.dtype)
            mixed[cell.rows, :, cell.queries] = products(weights, v[cell.rows, cell.keys])
        ctx.task = task
        ctx.save_for_backward(q, k, v, sinks, *kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, sinks, *kept = ctx.saved_tensors
        task = ctx.task
        grad_q, grad_k, grad_v = torch.empty_like(q), _Sums(k, task), _Sums(v, task)
        grad_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=wide(sinks.dtype))
        scores, drops = Scores(q, k, sinks, task), _Drops(task, q.device)
        for index, cell in reversed(list(enumerate(task.cells(q, k)))):  # the last block often meets all keys
            weights = Weights(kept[index]) if kept else scores.weights(cell, bends=True)
            above = grad[cell.rows, :, cell.queries]  # (n, G, C, e)
            used = drops.drop(index, weights.kept).to(v.dtype)
            grad_v.add(cell, to_keys(used, above))
            grad_weights = drops.again(products(above, v[cell.rows, cell.keys].mT))
            grad_scores, grad_sunk = through(weights, grad_weights)
            if grad_sinks is not None and grad_sunk is not None:
                grad_sinks[cell.rows] += grad_sunk
            grad_scores = grad_scores.to(q.dtype)
            grad_q[cell.rows, :, cell.queries] = products(grad_scores, k[cell.rows, cell.keys])
            grad_k.add(cell, to_keys(grad_scores, q[cell.rows, :, cell.queries]))
        grads = grad_q.mul_(task.scale), grad_k.whole(task.scale), grad_v.whole()
        return *grads, None if grad_sinks is None or sinks is None else grad_sinks.to(sinks.dtype), None


class _Sums:
    """The gradient of keys or values (N, S, d), summed over blocks, one group of rows after the other."""

    def __init__(self, like: Tensor, task: Task) -> None:
        length, window = like.shape[1], task.sight.window
        reach = length if window is None else min(length, window)
        many = reach > FEW * block_length(length, window)
        self.like, self.dtype = like, wide(like.dtype) if many else like.dtype
        self.groups: dict[int, Tensor] = {}

    def add(self, cell: Cell, part: Tensor) -> None:
        """Add a block's ``part`` (n, W, d)."""
        row, length = cell.rows.start, self.like.shape[1]
        if row not in self.groups and part.shape[1] == length:
            self.groups[row] = part
            return
        if row not in self.groups:
            self.groups[row] = part.new_zeros(len(part), length, part.shape[2], dtype=self.dtype)
        self.groups[row] = self.groups[row].to(self.dtype)
        self.groups[row][:, cell.keys] += part

    def whole(self, scale: float = 1.0) -> Tensor:
        """Return all rows in order, times ``scale``."""
        parts = [self.groups[row].to(self.like.dtype) for row in sorted(self.groups)]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole if scale == 1 else whole.mul_(scale)


class _Drops:
    """Dropped weights, drawn block by block from a generator of their own: the same in both passes."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.rate, self.seed = task.dropout, task.seed
        self.generator = torch.Generator(device) if self.rate else None
        self.mask: Tensor | None = None

    def drop(self, index: int, weights: Tensor) -> Tensor:
        """Drop some weights of a block, and raise the others so that the mean stays."""
        if self.generator is None:
            return weights
        self.generator.manual_seed(self.seed + index)
        mask = torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)
        self.mask = mask.bernoulli_(1 - self.rate, generator=self.generator).div_(1 - self.rate)
        return weights * self.mask

    def again(self, grad: Tensor) -> Tensor:
        """Drop what `drop` dropped last."""
        return grad if self.mask is None else grad * self.mask
