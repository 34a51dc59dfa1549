"""What gradients look like: their norm by part, and how noisy they are.

The gradient noise scale is the batch, in tokens, at which the gradient is as much noise as direction: far below it
larger batches pay, far above they are waste (McCandlish et al., 2018, https://arxiv.org/abs/1812.06162, appendix A.1).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class GradientStats:
    """Watches the gradients of a step while its micro-batches add up in ``model``'s trained parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._parts.setdefault(part_of(name), []).append(parameter)
        self._before: list[Tensor | None] = []
        self._small: list[tuple[float, float]] = []

    def begin(self) -> None:
        """Begin a step: gradients are cleared."""
        self._before, self._small = [None] * len(self._parameters()), []

    def micro_batch(self, tokens: float) -> None:
        """Note the share that a micro-batch with ``tokens`` targets has just added to the gradients."""
        now = [parameter.grad for parameter in self._parameters()]
        added = [
            grad if old is None else grad - old for grad, old in zip(now, self._before, strict=True) if grad is not None
        ]
        self._small.append((tokens, _square(added)))
        self._before = [None if grad is None else grad.clone() for grad in now]

    def figures(self, scale: float = 1.0) -> dict[str, float]:
        """Return `grad_norm/<part>`, and `grad_noise_scale` where it can be told; ``scale`` multiplied the shares."""
        norms = {f"grad_norm/{part}": _square(_grads(parameters)) ** 0.5 for part, parameters in self._parts.items()}
        noise = noise_scale(self._small, _square(_grads(self._parameters())) * scale**2)
        return norms if noise is None else {**norms, "grad_noise_scale": noise}

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for part in self._parts.values() for parameter in part]


def noise_scale(small: Sequence[tuple[float, float]], whole: float) -> float | None:
    """Return tr(covariance) / |gradient|^2 in tokens, of a step whose squared gradient norm is ``whole``.

    ``small`` are (tokens, squared norm of its share) of each micro-batch. A share of n of N tokens adds n / N of its
    own mean gradient. None where fewer than two micro-batches have tokens, or the estimate of |gradient|^2, a
    difference of two noisy numbers, is not positive.
    """
    shares = [(tokens, square) for tokens, square in small if tokens > 0]
    total = sum(tokens for tokens, _ in shares)
    if len(shares) < 2:
        return None
    each = total / len(shares)
    mean = sum(square * (total / tokens) ** 2 for tokens, square in shares) / len(shares)
    direction = (total * whole - each * mean) / (total - each)
    noise = (mean - whole) / (1 / each - 1 / total)
    return noise / direction if direction > 0 and noise >= 0 else None


def part_of(name: str) -> str:
    """Return the part of the model that a parameter belongs to, the same for all layers: `attention`, `lm_head`."""
    words = name.split(".")
    return words[2] if words[0] == "layers" and len(words) > 3 else words[0]


def _grads(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _square(tensors: Sequence[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors)) ** 2 if tensors else 0.0
