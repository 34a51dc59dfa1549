"""Root-mean-square normalisation with a short backward pass.

torch's backward of ``F.rms_norm`` on a CPU is a chain of a dozen pointwise passes in fp32; this one
takes half as many, in the precision of the inputs, with its sums in fp32.

Shapes: D features; leading dimensions are free.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.native import kernels
from gptwright.ops.native.program import recording
from gptwright.ops.reference import beside


def rms_norm_reference(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Do what `rms_norm` does, by torch's own composition."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


@beside(rms_norm_reference)
def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Return ``x / sqrt(mean(x^2) + eps)``, times ``weight`` where there is one (Zhang and Sennrich, 2019).

    Args:
        x: (..., D).
        weight: (D,) in the dtype of ``x``, or None.
        eps: added to the mean square.
    """
    if recording() and kernels.suits(x, weight):
        return kernels.norm(x, weight, None, eps, centred=False)
    if x.device.type != "cpu":
        return rms_norm_reference(x, weight, eps)
    return _RMSNorm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        inverse = (length.square() / x.shape[-1] + eps).rsqrt().to(x.dtype)  # (..., 1)
        ctx.save_for_backward(x, weight, inverse)
        ctx.exact = exact
        unit = x * inverse
        return unit if weight is None else unit * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, inverse = ctx.saved_tensors
        unit, grad_weight = x * inverse, None
        if weight is not None:
            if ctx.needs_input_grad[1]:
                grad_weight = (grad * unit).flatten(0, -2).sum(0, dtype=ctx.exact).to(weight.dtype)
            grad = grad * weight
        along = (grad * unit).mean(-1, keepdim=True, dtype=ctx.exact).to(x.dtype)  # (..., 1)
        return (grad - unit * along) * inverse, grad_weight, None
