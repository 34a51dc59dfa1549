"""Pointwise activations by name."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu_squared", "silu", "tanh"]


def relu_squared(x: Tensor) -> Tensor:
    """Return relu(x)^2 (So et al., 2021, https://arxiv.org/abs/2109.08668)."""
    return F.relu(x).square()


def quick_gelu(x: Tensor) -> Tensor:
    """Return x * sigmoid(1.702 x), a rough gelu (Hendrycks and Gimpel, 2016, https://arxiv.org/abs/1606.08415)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu_squared": relu_squared,
    "silu": F.silu,
    "tanh": torch.tanh,
}
