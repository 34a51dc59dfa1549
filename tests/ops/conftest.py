"""Comparing a fast path with its reference: results and every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

LENGTHS = (1, 2, 63, 65, 200)
"""Around the block of 64, and beyond three of them."""


def relative_error(found: Tensor, expected: Tensor) -> float:
    worst = (found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30)
    return float(worst)


def results_and_gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the result and the gradient of each input, under a loss that weighs every element differently."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * weights.cos()).sum().backward()
    return [out.detach(), *(x.grad for x in leaves)]


@pytest.fixture
def agree():
    """Make sure that two functions of the same tensors agree: ``agree(fast, reference, inputs, tolerance=2e-5)``."""

    def agree(fast, reference, inputs, tolerance=2e-5):
        found, expected = results_and_gradients(fast, inputs), results_and_gradients(reference, inputs)
        names = ["result", *(f"gradient of input {n}" for n in range(len(inputs)))]
        for name, one, other in zip(names, found, expected, strict=True):
            assert one.dtype == other.dtype, name
            assert torch.isfinite(one).all(), name
            assert relative_error(one, other) <= tolerance, name

    return agree


@pytest.fixture
def draw():
    """Draw tensors: ``draw(shape, ...)`` returns one normal tensor for each shape, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shapes: tuple(torch.randn(shape, generator=generator) for shape in shapes)
