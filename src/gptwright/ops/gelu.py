"""GPT-2's approximation of GELU, without the tanh that is slow in torch on a CPU.

gelu_tanh(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel, 2016,
https://arxiv.org/abs/1606.08415), and since (1 + tanh(u)) / 2 = sigmoid(2u), it is x sigmoid(a x + b x^3).
In bf16 the sigmoid form takes about half the time; its gradient is rounded at each of its few passes, to
0.4 % of its size where torch's kernel has 0.2 %. In other precisions torch's own kernel is used.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

A = 2 * math.sqrt(2 / math.pi)
B = A * 0.044715


def gelu_tanh(x: Tensor) -> Tensor:
    """Return the tanh approximation of GELU of ``x``, of any shape."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _SigmoidForm.apply(x)  # pyright: ignore[reportReturnType]
    return gelu_tanh_reference(x)


def gelu_tanh_reference(x: Tensor) -> Tensor:
    """Do what `gelu_tanh` does, by torch's own kernel."""
    return F.gelu(x, approximate="tanh")


class _SigmoidForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = x.square().mul_(B).add_(A).mul_(x).sigmoid_()
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return grad gate (1 + (1 - gate) x (a + 3 b x^2))."""
        x, gate = ctx.saved_tensors
        slope = x.square().mul_(3 * B).add_(A).mul_(x)
        return slope.mul_(1 - gate).add_(1).mul_(gate).mul_(grad)
