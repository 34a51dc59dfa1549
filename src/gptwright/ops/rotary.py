"""Rotary positions (Su et al., 2021, https://arxiv.org/abs/2104.09864).

Feature pairs (i, i + d/2) are turned by position x theta^(-2i/d): the "half" layout that GPT-NeoX and
Llama use. Angles are computed in fp32 at any compute precision.

Shapes: B batch, H heads, T positions, d head width.
"""

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, each (B, 1, T, width) fp32, for ``positions`` (B, T)."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angles = positions[..., None].float() * theta**-exponents  # (B, T, width/2)
    angles = torch.cat((angles, angles), -1)[:, None]  # (B, 1, T, width)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the feature pairs of ``x`` (B, H, T, d); cosines and sines broadcast, in the dtype of ``x``."""
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin
