"""Which of torch's operations have a kernel in ``ops/native``, and on which tensors.

Shapes: R rows, K inputs, N outputs, D features.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gptwright.ops.native import kernels

_aten: Any = torch.ops.aten
FEW = 32
"""Rows up to which reading the weights, and not computing, takes the time."""


def lowered(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what ``func`` returns, computed by a kernel; None where there is none for these arguments."""
    rule = _RULES.get(func)
    return None if rule is None else rule(*args, **kwargs)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    fits = x.numel() <= FEW * x.shape[-1] and weight.ndim == 2 and weight.is_contiguous()
    return kernels.linear(x, weight, bias) if fits and kernels.suits(x, weight, bias) else None


def _product(x: Tensor, right: Tensor) -> Tensor | None:
    return _linear(x, right.T) if x.ndim == 2 else None


def _sum_with_product(bias: Tensor, x: Tensor, right: Tensor, **factors: Any) -> Tensor | None:
    return _linear(x, right.T, bias) if not factors and bias.ndim == 1 and bias.is_contiguous() else None


def _alike(x: Any, y: Any) -> bool:
    """Whether two tensors lie in memory in the same way, without gaps."""
    tensors = isinstance(x, Tensor) and isinstance(y, Tensor)
    return tensors and x.shape == y.shape and x.is_contiguous() and y.is_contiguous() and kernels.suits(x, y)


def _add(x: Any, y: Any, *, alpha: float = 1) -> Tensor | None:
    return kernels.add(x, y, alpha) if _alike(x, y) else None


def _multiply(x: Any, y: Any) -> Tensor | None:
    return kernels.multiply(x, y) if _alike(x, y) else None


def _bend(activation: str) -> Callable[[Tensor], Tensor | None]:
    return lambda x: kernels.bend(x, activation) if x.is_contiguous() and kernels.suits(x) else None


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor | None:
    return _bend("gelu_tanh" if approximate == "tanh" else "gelu")(x)


def _layer_norm(
    x: Tensor,
    shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *rest: Any,
) -> Tensor | None:
    del rest
    fits = len(shape) == 1 and kernels.suits(x, weight, bias)
    return kernels.norm(x, weight, bias, eps, centred=True) if fits else None


def _native_layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    found = _layer_norm(x, shape, weight, bias, eps)
    return None if found is None else (found, x.new_empty(0), x.new_empty(0))


def _embedding(table: Tensor, ids: Tensor, *rest: Any) -> Tensor | None:
    del rest
    fits = table.is_contiguous() and ids.is_contiguous() and ids.dtype == torch.int64 and kernels.suits(table)
    return kernels.embed(ids, table) if fits else None


def _index(table: Tensor, places: list[Tensor | None]) -> Tensor | None:
    fits = table.ndim == 2 and len(places) == 1 and places[0] is not None
    return _embedding(table, places[0]) if fits and places[0] is not None else None


def _cast(x: Tensor, *, dtype: torch.dtype | None = None, **rest: Any) -> Tensor | None:
    plain = all(value is None for value in rest.values())
    fits = plain and dtype in kernels.DTYPES and x.is_contiguous() and kernels.suits(x)
    return kernels.cast(x, dtype) if fits and dtype is not None else None


_RULES: dict[Any, Callable[..., Any]] = {
    _aten.linear.default: _linear,
    _aten.mm.default: _product,
    _aten.addmm.default: _sum_with_product,
    _aten.add.Tensor: _add,
    _aten.mul.Tensor: _multiply,
    _aten.silu.default: _bend("silu"),
    _aten.relu.default: _bend("relu"),
    _aten.gelu.default: _gelu,
    _aten.layer_norm.default: _layer_norm,
    _aten.native_layer_norm.default: _native_layer_norm,
    _aten.embedding.default: _embedding,
    _aten.index.Tensor: _index,
    _aten._to_copy.default: _cast,
}
