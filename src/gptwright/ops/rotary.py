"""Rotary positions (Su et al., 2021, https://arxiv.org/abs/2104.09864).

Feature pairs (i, i + d/2) are turned by position x theta^(-2i/d): the "half" layout that GPT-NeoX and
Llama use. Angles are computed in fp32 at any compute precision.

Shapes: B batch, H heads, T positions, d head width.
"""

from typing import Any

import torch
from torch import Tensor

from gptwright.ops.reference import beside


def rotary_angles(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, each (B, 1, T, width) fp32, for ``positions`` (B, T)."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angles = positions[..., None].float() * theta**-exponents  # (B, T, width/2)
    angles = torch.cat((angles, angles), -1)[:, None]  # (B, 1, T, width)
    return angles.cos(), angles.sin()


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Do what `rotate` does, as the formula is usually written."""
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


@beside(rotate_reference)
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the feature pairs of ``x`` (B, H, T, d); cosines and sines broadcast, in the dtype of ``x``.

    Turning back is the gradient of turning, so nothing but the angles is kept for the backward pass.
    """
    return _Rotate.apply(x, cos, sin)  # pyright: ignore[reportReturnType]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out, half = x * cos, x.shape[-1] // 2
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None
