"""What laws are judged with: tolerances, distances, and the sentence of a law that does not hold."""

from collections.abc import Iterable

import torch
from torch import Tensor

from gptwright.model.gpt import GPT
from gptwright.model.states import ModelStates

TOLERANCE = 1e-5
"""Largest difference, relative to the largest value."""
LOW_PRECISION = 0.05
"""Largest typical distance of logits in bf16 or fp16 from those in fp32."""
GRADIENT_TOLERANCE = 1e-4
"""The same for sums over hundreds of tokens."""
T = 150
"""Longer than two blocks of everything that works in blocks of 64."""
CHUNKS = (70, 1, 1, 1, 64, 3, 1, 9)
"""Pieces of a sequence of `T` tokens."""


class Broken(AssertionError):  # noqa: N818 - it is the word of the report
    """A law does not hold; the message has the figures."""


def demand(holds: bool, sentence: str) -> None:
    """Make sure that ``holds``."""
    if not holds:
        raise Broken(sentence)


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected value; infinite for NaN."""
    found, expected = found.detach().double(), expected.detach().double()
    worst = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    return worst if worst == worst else float("inf")


def typical_distance(found: Tensor, expected: Tensor) -> float:
    """Return the median over tokens of the difference's norm relative to that of what is expected.

    At low precision a router may send some tokens elsewhere; what most of them do counts.
    """
    found, expected = found.detach().double(), expected.detach().double()
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).median())


def same(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Make sure that two tensors are equal to tolerance."""
    demand(found.shape == expected.shape, f"{what}: shapes {tuple(found.shape)} and {tuple(expected.shape)} differ")
    worst = error(found, expected)
    demand(worst <= tolerance, f"{what}: the largest relative difference is {worst:.1e}, allowed is {tolerance:.0e}")


def finite(x: Tensor, what: str) -> None:
    """Make sure that nothing is NaN or infinite."""
    bad = int((~torch.isfinite(x)).sum())
    demand(not bad, f"{what}: {bad} of {x.numel()} values are not finite")


def same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], what: str, floor: float = 0.1) -> None:
    """Make sure that gradients by parameter name are equal.

    Each is measured by its own largest value, or by ``floor`` times the largest of all where that is larger: a lone
    number may cancel to nothing.
    """
    scale = floor * max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in found.items():
        finite(grad, f"{what}, gradient of {name}")
        worst = float((grad - expected[name]).abs().max()) / max(scale, float(expected[name].abs().max()), 1e-30)
        demand(
            worst <= GRADIENT_TOLERANCE,
            f"{what}: the gradient of {name} differs by {worst:.1e}, allowed is {GRADIENT_TOLERANCE:.0e}",
        )


def fed(
    model: GPT,
    ids: Tensor,
    sizes: Iterable[int],
    states: ModelStates | None = None,
    mask: Tensor | None = None,
    segments: Tensor | None = None,
) -> Tensor:
    """Return the logits of ``ids`` fed to decode states, ``sizes`` columns at a time."""
    states = states if states is not None else model.init_states(batch=len(ids), length=ids.shape[1])
    said = {name: x for name, x in (("padding_mask", mask), ("segments", segments)) if x is not None}
    outs, at = [], 0
    for size in sizes:
        part = slice(at, at + size)
        outs.append(model(ids[:, part], states=states, **{name: x[:, part] for name, x in said.items()}))
        at += size
    assert at == ids.shape[1], f"the pieces add up to {at} and there are {ids.shape[1]} columns"
    return torch.cat(outs, 1)
