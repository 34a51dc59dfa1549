"""The optimizer object of the rules that are written here: groups of parameters, each moved by a function."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

Rule = Callable[[list[Tensor], MutableMapping[Tensor, Any], dict[str, Any]], None]
"""Takes one step in place: parameters that all have a gradient, the state of each, and the group's settings."""


class RuleOptimizer(Optimizer):
    """Each parameter group names its rule in ``algorithm``; parameters without a gradient are skipped."""

    RULES: ClassVar[Mapping[str, Rule]] = {}
    """The rules by name."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(list(groups), defaults={})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient; return the closure's loss if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self.RULES[group["algorithm"]](parameters, self.state, group)
        return loss


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of each parameter; all have one."""
    return [p.grad for p in parameters if p.grad is not None]


def momenta_of(parameters: Sequence[Tensor], state: MutableMapping[Tensor, Any]) -> list[Tensor]:
    """Return the tensor ``momentum`` in the state of each parameter, zeros in the beginning."""
    for p in parameters:
        if "momentum" not in state[p]:
            state[p]["momentum"] = torch.zeros_like(p)
    return [state[p]["momentum"] for p in parameters]
