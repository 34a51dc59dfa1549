"""Rotary positions (Su et al., 2021, https://arxiv.org/abs/2104.09864).

Feature pairs (i, i + d/2) are turned by position x theta^(-2i/d): the "half" layout that GPT-NeoX and
Llama use. Angles are computed in fp32 at any compute precision.

To read further than a model was trained, pairs are turned more slowly: `slowed` divides their frequencies
by a factor, all or only those that have not turned often enough in training to be known all around.

Shapes: B batch, H heads, T positions, d head width, r rotated width (an even number up to d).
"""

import math
from typing import Any

import torch
from torch import Tensor

from gptwright.ops.native import kernels
from gptwright.ops.native.program import recording
from gptwright.ops.reference import beside


def rotary_frequencies(width: int, theta: float, device: Any = None) -> Tensor:
    """Return the angle (r/2,) fp32 that each pair of ``width`` features is turned by from one position to the next."""
    exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    return 1.0 / theta**exponents  # as others compute it, to the last bit: far positions multiply any difference


def rotary_angles(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, each (B, 1, T, r) fp32, for ``positions`` (B, T) and ``width`` r."""
    return cosines_and_sines(positions, rotary_frequencies(width, theta, positions.device))


def cosines_and_sines(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, each (B, 1, T, r) fp32, for ``positions`` (B, T) and ``frequencies`` (r/2,)."""
    angles = positions[..., None].float() * frequencies  # (B, T, r/2)
    angles = torch.cat((angles, angles), -1)[:, None]  # (B, 1, T, r)
    return angles.cos(), angles.sin()


def slowed(frequencies: Tensor, factor: float, kept: Tensor | float = 0.0) -> Tensor:
    """Divide ``frequencies`` (r/2,) by ``factor``, except for the share ``kept`` (r/2,), from 0 to 1, of each."""
    return frequencies / factor * (1 - kept) + frequencies * kept


def stretched_theta(width: int, theta: float, factor: float) -> float:
    """Return the theta whose slowest pair of ``width`` features is ``factor`` times slower, the fastest the same."""
    return theta * factor ** (width / (width - 2))


def kept_by_pair(
    width: int, theta: float, length: int, often: float, seldom: float, *, whole: bool = True, device: Any = None
) -> Tensor:
    """Return 1 for pairs (r/2,) that turn ``often`` times or more in ``length`` positions, 0 for ``seldom`` or fewer.

    Between the two it falls linearly with the pair's index, as in the authors' code for YaRN
    (Peng et al., 2023, https://arxiv.org/abs/2309.00071); ``whole`` rounds both ends outwards to whole pairs.
    """
    first, last = (_pair_that_turns(times, width, theta, length) for times in (often, seldom))
    if whole:
        first, last = math.floor(first), math.ceil(last)
    first = max(first, 0)
    last = max(min(last, width - 1), first + 1e-3)  # as a step where both ends meet
    pairs = torch.arange(width // 2, dtype=torch.float32, device=device)
    return 1 - ((pairs - first) / (last - first)).clamp(0, 1)


def _pair_that_turns(times: float, width: int, theta: float, length: int) -> float:
    """Return the index, in general between two pairs, at which ``length`` positions are so many whole turns."""
    return width * math.log(length / (times * 2 * math.pi)) / (2 * math.log(theta))


def kept_by_turns(frequencies: Tensor, length: int, often: float, seldom: float) -> Tensor:
    """Return 1 for pairs (r/2,) that turn ``often`` times or more in ``length`` positions, 0 for ``seldom`` or fewer.

    Between the two it rises linearly with the number of turns, as in Llama 3.1 (https://arxiv.org/abs/2407.21783).
    """
    turns = frequencies * (length / (2 * math.pi))
    return ((turns - seldom) / (often - seldom)).clamp(0, 1)


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Do what `rotate` does, as the formula is usually written."""
    width = cos.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    low, high = turned.chunk(2, -1)
    return torch.cat((turned * cos + torch.cat((-high, low), -1) * sin, rest), -1)


@beside(rotate_reference)
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the feature pairs of ``x`` (B, H, T, d) among its first r features; the others stay as they are.

    Cosines and sines (B or 1, 1, T, r) are in the dtype of ``x``. Turning back is the gradient of turning, so
    nothing but the angles is kept for the backward pass.
    """
    if recording() and kernels.suits(x, cos, sin):
        return kernels.rotate(x, cos, sin)
    return _Rotate.apply(x, cos, sin)  # pyright: ignore[reportReturnType]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width, half = cos.shape[-1], cos.shape[-1] // 2
    if width == x.shape[-1]:
        out = x * cos
    else:
        out = x.clone()
        out[..., :width].mul_(cos)
    out[..., :half].addcmul_(x[..., half:width], sin[..., :half], value=-1)
    out[..., half:width].addcmul_(x[..., :half], sin[..., half:])
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
