"""The parts of attention by blocks: which keys a block of queries meets, and its weights, in either pass.

Shapes: B batch, H query heads, K key-value heads, N = B * K, G = H / K query heads of a key-value head, T
query positions, S key positions, C positions of a block, W keys that a block meets, d head width, n a group
of the N.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gptwright.ops.attention_rules import Pair, Sight

LONGEST = 2048
"""Positions beyond which weights would cost more memory to keep than they save."""
_CPU_BYTES, _GPU_BYTES = 8 << 20, 256 << 20  # of one block's scores


def block_length(length: int, window: int | None = None) -> int:
    """Return C, the queries of a block, for ``length`` queries."""
    reach = length if window is None else min(length, 4 * window)
    return 64 if reach <= 512 else 128 if reach <= LONGEST else 256


class Cell(NamedTuple):
    """A block of queries of a group of heads, and the keys it meets."""

    rows: slice
    queries: slice
    keys: slice


class Task(NamedTuple):
    """All that a pass needs to know beside the tensors that have gradients."""

    sight: Sight
    heads: int
    """K."""
    scale: float
    softcap: float | None
    slopes: Tensor | None
    """(N, G)."""
    positions: Pair | None
    """(B or 1, T) and (B or 1, S)."""
    dropout: float
    seed: int
    """Where the generator of dropped weights begins."""

    @property
    def is_plain(self) -> bool:
        """Whether scores are only scaled (and may have a sink beside them)."""
        return self.softcap is None and self.slopes is None

    def scales(self, dtype: torch.dtype) -> tuple[float, float]:
        """Return the factors on queries and on products: on queries it is cheaper, where it costs no precision."""
        exact = dtype.itemsize > 2 or math.frexp(self.scale)[0] == 0.5
        return (self.scale, 1.0) if exact else (1.0, self.scale)

    def cells(self, q: Tensor, k: Tensor) -> Iterator[Cell]:
        """Yield the blocks in an order that both passes share."""
        (count, group, times, _), length = q.shape, k.shape[1]
        block = block_length(times, self.sight.window)
        room = _CPU_BYTES if q.device.type == "cpu" else _GPU_BYTES
        widest = length if self.sight.window is None else min(length, self.sight.window + block)
        parts = -(-count * group * min(block, times) * widest * q.element_size() // room)
        parts = 1 if torch.compiler.is_compiling() else min(count, parts)
        step = -(-count // parts)
        for row in range(0, count, step):
            for number, start in enumerate(range(0, times, block)):
                stop = min(start + block, times)
                keys = self._keys(number, length - times + start, length - times + stop, length)
                yield Cell(slice(row, min(row + step, count)), slice(start, stop), keys)

    def _keys(self, number: int, start: int, stop: int, length: int) -> slice:
        first = 0 if self.sight.window is None else max(0, start - self.sight.window + 1) // 32 * 32
        if self.sight.first_keys is not None:
            first = max(first, self.sight.first_keys[number])
        return slice(first, stop if self.sight.causal else length)

    def distance(self, cell: Cell, dtype: torch.dtype) -> Tensor:
        """(n or 1, 1, C, W): how far each key lies behind each query."""
        assert self.positions is not None
        queries, keys = self.positions[0][:, cell.queries, None], self.positions[1][:, None, cell.keys]
        return self.of_rows((queries - keys).to(dtype), cell.rows)[:, None]

    def of_rows(self, x: Tensor, rows: slice) -> Tensor:
        """Pick what belongs to a group of the N of ``x`` (B or 1, ...): (n or 1, ...)."""
        if len(x) == 1:
            return x
        return x[torch.arange(rows.start, rows.stop, device=x.device) // self.heads]


class Weights(NamedTuple):
    """Weights of a block, with what the backward pass needs to go through them."""

    kept: Tensor
    """(n, G, C, W)."""
    sunk: Tensor | None = None
    """(n, G, C, 1): weight of the sink."""
    bend: Tensor | None = None
    """(n, G, C, W): derivative of the softcap."""


class Scores:
    """Makes the weights of block after block, in either pass."""

    def __init__(self, q: Tensor, k: Tensor, sinks: Tensor | None, task: Task) -> None:
        self.q, self.k, self.sinks, self.task = q, k, sinks, task
        self.scales = task.scales(q.dtype)
        self.bands: dict[tuple[int, int], Tensor] = {}

    def weights(self, cell: Cell, *, bends: bool = False) -> Weights:
        """Return the weights of a block; ``bends``: with the derivative of the softcap."""
        queries, keys = self.q[cell.rows, :, cell.queries], self.k[cell.rows, cell.keys]
        scores = products(queries * self.scales[0], keys.mT, self.scales[1])  # (n, G, C, W)
        if self.task.is_plain and self.sinks is None:
            return Weights(self._hide(scores, cell).softmax(-1))
        scores = scores.to(wide(scores.dtype))
        bend = None
        if self.task.softcap is not None:
            scores.div_(self.task.softcap).tanh_()
            bend = 1 - scores.square() if bends else None
            scores.mul_(self.task.softcap)
        if self.task.slopes is not None:
            slopes = self.task.slopes[cell.rows, :, None, None].to(scores.dtype)
            scores.addcmul_(slopes, self.task.distance(cell, scores.dtype), value=-1)
        self._hide(scores, cell)
        if self.sinks is None:
            return Weights(scores.softmax(-1), None, bend)
        sinks = self.sinks[cell.rows, :, None, None].to(scores.dtype).expand(*scores.shape[:-1], 1)
        weights = torch.cat((scores, sinks), -1).softmax(-1)  # (n, G, C, W + 1)
        return Weights(weights[..., :-1], weights[..., -1:], bend)

    def _hide(self, scores: Tensor, cell: Cell) -> Tensor:
        """Set the scores (n, G, C, W) of hidden keys to -inf, in place."""
        sight = self.task.sight
        if sight.causal:
            reach = scores.shape[-2 if sight.window is None else -1]  # the last C keys are the block's own
            near = scores[..., -reach:]
            near += self._band(scores.shape[-2], reach, scores)
        hidden = sight.hidden(cell.queries, cell.keys)
        if hidden is not None:
            scores.masked_fill_(self.task.of_rows(hidden, cell.rows)[:, None], -torch.inf)
        return scores

    def _band(self, queries: int, keys: int, like: Tensor) -> Tensor:
        """(C, W): -inf at keys after each query or too far before it; the last query stands at the last key."""
        if (queries, keys) not in self.bands:
            nothing = torch.full((queries, keys), -torch.inf, dtype=like.dtype, device=like.device)
            band = nothing.triu(keys - queries + 1)
            if self.task.sight.window is not None:
                band += nothing.tril(keys - queries - self.task.sight.window)
            self.bands[queries, keys] = band
        return self.bands[queries, keys]


def products(x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    """(n, G, C, d) by (n, d, W) -> (n, G, C, W), times ``scale`` before they are rounded."""
    rows = x.flatten(1, 2)  # (n, G * C, d)
    made = torch.bmm(rows, y) if scale == 1 else torch.baddbmm(x.new_zeros(1, 1, 1), rows, y, beta=0, alpha=scale)
    return made.unflatten(1, x.shape[1:3])


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type that sums and softmax are computed in: at least fp32."""
    return torch.promote_types(dtype, torch.float32)


def to_keys(x: Tensor, y: Tensor) -> Tensor:
    """Sum over heads and queries: (n, G, C, W) and (n, G, C, d) -> (n, W, d)."""
    return torch.bmm(x.flatten(1, 2).mT, y.flatten(1, 2))


def through(weights: Weights, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of the scores (n, G, C, W) and of the sinks (n, G), given that of the weights."""
    kept = weights.kept
    if weights.sunk is None:
        grad = torch._softmax_backward_data(grad.to(kept.dtype), kept, -1, kept.dtype)  # pyright: ignore[reportPrivateImportUsage]
        return grad if weights.bend is None else grad.mul_(weights.bend), None
    grad = grad.to(kept.dtype)
    mean = (grad * kept).sum(-1, keepdim=True)  # (n, G, C, 1)
    scores = (grad - mean).mul_(kept)
    return scores if weights.bend is None else scores.mul_(weights.bend), -(mean * weights.sunk).sum((2, 3))
