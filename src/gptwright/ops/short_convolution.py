"""A short causal convolution of every feature with the latest tokens of its own document.

Each feature has K weights of its own, one for each of the latest K tokens, itself included (a depthwise convolution;
Gu and Dao, 2023, https://arxiv.org/abs/2312.00752). Distance is distance in position: padding is not seen.

Shapes: B batch, T positions, F features, K tokens that an output sees.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.chunks import begins
from gptwright.ops.reference import beside
from gptwright.ops.sequence import Sequence


def short_convolution_reference(
    x: Tensor, weight: Tensor, seq: Sequence, memory: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Do what `short_convolution` does, token by token."""
    latest = _nothing(x, weight) if memory is None else memory.to(x.dtype)
    outs = []
    for t in range(len(seq)):
        real, first = seq.real[:, t, None, None], (seq.positions[:, t] == 0)[:, None, None]
        seen = torch.cat((torch.where(real & first, 0, latest), x[:, t, None]), 1)  # (B, K, F)
        outs.append((seen * weight.T).sum(1))
        latest = torch.where(real, seen[:, 1:], latest)
    return torch.stack(outs, 1), latest


@beside(short_convolution_reference)
def short_convolution(x: Tensor, weight: Tensor, seq: Sequence, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weigh each token's features with those of the K - 1 tokens before it in its document.

    Args:
        x: (B, T, F).
        weight: (F, K) in the dtype of ``x``; the last column is the token's own.
        seq: the batch.
        memory: (B, K - 1, F), the latest real tokens of each row's document, zeros before its first; or None.

    Returns:
        (B, T, F), finite and otherwise unspecified at padding; and the memory after the last token.
    """
    side_by_side = seq.gapless if memory is None else len(seq) == 1
    if memory is None or seq.start == 0:
        memory = _nothing(x, weight)
    whole = torch.cat((memory.to(x.dtype), x), 1)  # (B, K - 1 + T, F)
    if seq.start is not None or seq.ragged:
        return _convolved(whole, weight, None), whole[:, len(seq) :].clone()
    latest = _latest(whole, seq)
    if side_by_side:
        return _convolved(whole, weight, seq.positions), latest
    order, back = seq.together()  # (B, T)
    whole = torch.cat((memory.to(x.dtype), _taken(x, order)), 1)
    return _taken(_convolved(whole, weight, seq.positions.gather(1, order)), back), latest


def _nothing(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_zeros(len(x), weight.shape[1] - 1, x.shape[2])


def _taken(x: Tensor, columns: Tensor) -> Tensor:
    """Return the chosen ``columns`` (B, S) of ``x`` (B, T, F): (B, S, F)."""
    return x.gather(1, columns[..., None].expand(-1, -1, x.shape[2]))


def _latest(whole: Tensor, seq: Sequence) -> Tensor:
    """Return the last K - 1 real tokens of the document in which each row ends, zeros before its first."""
    count = whole.shape[1] - len(seq)
    columns = torch.arange(whole.shape[1], device=whole.device)
    real, first = (F.pad(x, (count, 0), value=keeps) for x, keeps in ((seq.real, 1), (begins(seq), 0)))
    kept = torch.where(real, columns, -1).topk(count, 1).values.flip(1)  # (B, K - 1)
    own = kept >= torch.where(first, columns, 0).amax(1, keepdim=True)
    return torch.where(own[..., None], _taken(whole, kept), 0)


def _convolved(whole: Tensor, weight: Tensor, positions: Tensor | None) -> Tensor:
    """Convolve ``whole`` (B, K - 1 + T, F), whose documents begin where ``positions`` (B, T) are 0, to (B, T, F)."""
    return _Convolution.apply(whole, weight, positions)  # pyright: ignore[reportReturnType]


class _Convolution(torch.autograd.Function):
    """A sum of shifted products; torch's own backward of a slice would fill a whole tensor with zeros for each."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, weight: Tensor, positions: Tensor | None) -> Tensor:
        ctx.save_for_backward(whole, weight, positions)
        last = weight.shape[1] - 1
        out = whole[:, last:] * weight[:, last]
        for at in range(last):
            out.addcmul_(_seen(whole, at, last, positions), weight[:, at])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        whole, weight, positions = ctx.saved_tensors
        last, grad_whole, grad_weight = weight.shape[1] - 1, torch.zeros_like(whole), []
        for at in range(last + 1):
            reached = grad if positions is None else grad * (positions >= last - at)[..., None]
            grad_whole[:, at : at + grad.shape[1]].addcmul_(reached, weight[:, at])
            products = reached * whole[:, at : at + grad.shape[1]]
            grad_weight.append(products.sum((0, 1), dtype=torch.promote_types(grad.dtype, torch.float32)))
        return grad_whole, torch.stack(grad_weight, 1).to(weight.dtype), None


def _seen(whole: Tensor, at: int, last: int, positions: Tensor | None) -> Tensor:
    """Return the tokens (B, T, F) that stand ``last - at`` before each, zeros where a document has none there."""
    seen = whole[:, at : at + whole.shape[1] - last]
    return seen if positions is None else seen * (positions >= last - at)[..., None]
