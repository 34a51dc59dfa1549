"""The instructions as functions of tensors, each with its reference elsewhere in `gptwright.ops`.

Shapes: R rows, K inputs, N outputs, B sequences, H query heads, J key-value heads, T queries, L places of a cache,
d and e widths.
"""

import torch
from torch import Tensor

from gptwright.ops.attention_rules import Scoring
from gptwright.ops.native.program import Instruction, Op, emit

DTYPES = (torch.float32, torch.bfloat16)
"""What kernels compute on."""
_POINTWISE = {"silu": Op.SILU, "gelu": Op.GELU, "gelu_tanh": Op.GELU_TANH, "relu": Op.RELU}


def suits(*tensors: Tensor | None) -> bool:
    """Whether kernels take these tensors: on a CPU, of one type that they compute on."""
    given = [x for x in tensors if x is not None]
    dtype = given[0].dtype
    return dtype in DTYPES and all(x.device.type == "cpu" and x.dtype == dtype for x in given)


def _in_a_row(x: Tensor) -> Tensor:
    """Return ``x`` with the features of each vector side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None, offset: Tensor | None = None
) -> Tensor:
    """Return ``x`` (..., K) times ``weight`` (N, K) transposed, plus ``bias`` (N,): (..., N).

    int8 weights have a ``scale`` (N,) fp32; uint8 ones are int4 with ``scale`` and ``offset`` (N, K / 32) bf16.
    """
    rows = _in_a_row(x.reshape(-1, x.shape[-1]))
    out = x.new_empty(*x.shape[:-1], len(weight))
    tensors = (rows, weight, out, bias, scale, offset)
    sizes = (len(rows), rows.shape[1], len(weight), rows.stride(0), len(weight))
    emit(Instruction(Op.LINEAR, x.dtype, tensors, sizes, weights=weight.dtype))
    return out


def per_head(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x`` (B, H, T, d) times each head's contiguous ``weight`` (H, e, d) transposed: (B, H, T, e)."""
    batch, heads, length, width = x.shape
    rows = x.transpose(1, 2).reshape(batch * length, heads, width)
    out = x.new_empty(batch * length, heads, weight.shape[1])
    for head in range(heads):
        sizes = (len(rows), width, weight.shape[1], rows.stride(0), out.stride(0))
        tensors = (rows[:, head], weight[head], out[:, head])
        emit(Instruction(Op.LINEAR, x.dtype, tensors, sizes, weights=weight.dtype))
    return out.view(batch, length, heads, -1).transpose(1, 2)


def norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, centred: bool) -> Tensor:
    """Normalise ``x`` (..., D) by its root mean square, or its standard deviation where ``centred``."""
    x = x.contiguous()
    out = torch.empty_like(x)
    op = Op.LAYER_NORM if centred else Op.RMS_NORM
    emit(Instruction(op, x.dtype, (x, weight, bias, out), (x.numel() // x.shape[-1], x.shape[-1]), (eps,)))
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn ``x`` (B, H, T, d) by cosines and sines (B or 1, 1, T, r)."""
    x, cos, sin = _in_a_row(x), _in_a_row(cos), _in_a_row(sin)
    batch, heads, length, width = x.shape
    out = x.new_empty(x.shape)
    at = (0 if cos.shape[0] == 1 else cos.stride(0), cos.stride(2))
    sizes = (batch, heads, length, width, cos.shape[-1], *x.stride()[:3], *at)
    emit(Instruction(Op.ROTATE, x.dtype, (x, cos, sin, out), sizes))
    return out


def store(x: Tensor, cache: Tensor, positions: Tensor, ring: int) -> None:
    """Write ``x`` (B, J, T, d) into ``cache`` (B, J, L, d) at ``positions`` (B, T) modulo ``ring``."""
    x = _in_a_row(x)
    sizes = (*x.shape, *x.stride()[:3], *cache.stride()[:2], ring, positions.stride(0), cache.stride(2))
    emit(Instruction(Op.STORE, x.dtype, (x, cache, positions), sizes))


def attend(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, ring: int, window: int | None, scoring: Scoring
) -> Tensor:
    """Mix the values of a cache: see `gptwright.ops.decode_attention`."""
    q = _in_a_row(q)
    batch, heads, length, width = q.shape
    out = q.new_empty(batch, heads, length, v.shape[-1])
    tensors = (q, k, v, out, positions, scoring.slopes, scoring.sinks)
    strides = (*q.stride()[:3], *k.stride()[:2], *v.stride()[:2])
    steps = (positions.stride(0), k.stride(2), v.stride(2))
    sizes = (batch, heads, length, k.shape[1], width, v.shape[-1], *strides, ring, window or 0, *steps)
    emit(Instruction(Op.ATTEND, q.dtype, tensors, sizes, (scoring.scale or width**-0.5, scoring.softcap or 0.0)))
    return out


def add(x: Tensor, y: Tensor, factor: float) -> Tensor:
    """Return ``x + factor * y`` of two contiguous tensors of one shape."""
    out = torch.empty_like(x)
    emit(Instruction(Op.ADD, x.dtype, (x, y, out), (x.numel(),), (factor,)))
    return out


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x * y`` of two contiguous tensors of one shape."""
    out = torch.empty_like(x)
    emit(Instruction(Op.MUL, x.dtype, (x, y, out), (x.numel(),)))
    return out


def bend(x: Tensor, activation: str) -> Tensor:
    """Return an activation of a contiguous tensor."""
    out = torch.empty_like(x)
    emit(Instruction(_POINTWISE[activation], x.dtype, (x, None, out), (x.numel(),)))
    return out


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor in another dtype."""
    out = torch.empty_like(x, dtype=dtype)
    emit(Instruction(Op.CAST, x.dtype, (x, None, out), (x.numel(),), weights=dtype))
    return out


def embed(ids: Tensor, table: Tensor, scale: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Return the rows of ``table`` (N, D) of contiguous ``ids`` (...): (..., D).

    An int8 table has a ``scale`` (N,) fp32, and the ``dtype`` of what is returned is to be said.
    """
    dtype = dtype or table.dtype
    out = torch.empty(*ids.shape, table.shape[1], dtype=dtype)
    sizes = (ids.numel(), table.shape[1])
    emit(Instruction(Op.EMBED, dtype, (ids, table, out, None, scale), sizes, weights=table.dtype))
    return out
