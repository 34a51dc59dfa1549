"""The rule of Lion: every number moves by the same amount, in the direction that a running mean points to.

    weight   <- weight (1 - lr * weight_decay) - lr * sign(momentum + (1 - beta1) (gradient - momentum))
    momentum <- momentum + (1 - beta2) (gradient - momentum)

The sign is taken of a mean in which the new gradient weighs more (beta1) than in the one that is kept (beta2).
The state is one tensor a parameter, half of Adam's.

Source: Chen et al. (2023), https://arxiv.org/abs/2302.06675.
"""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are written with the _foreach functions: one launch for a list of tensors.

from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from gptwright.optim.rule import Rule, RuleOptimizer, gradients_of, momenta_of


def lion_step(parameters: list[Tensor], state: MutableMapping[Tensor, Any], group: dict[str, Any]) -> None:
    """Take one Lion step in place; ``group`` gives lr, betas and weight_decay, and every parameter has a gradient."""
    gradients, momenta, (near, far) = gradients_of(parameters), momenta_of(parameters, state), group["betas"]
    updates = torch._foreach_lerp(momenta, gradients, 1 - near)
    torch._foreach_sign_(updates)
    if shrink := group["lr"] * group["weight_decay"]:
        torch._foreach_mul_(parameters, 1 - shrink)
    torch._foreach_add_(parameters, updates, alpha=-group["lr"])
    torch._foreach_lerp_(momenta, gradients, 1 - far)


def lion_reference(weight: Tensor, gradient: Tensor, momentum: Tensor, group: dict[str, Any]) -> None:
    """Take one Lion step for one parameter, in place, as the formula at the top reads."""
    near, far = group["betas"]
    update = (momentum + (1 - near) * (gradient - momentum)).sign()
    weight.copy_(weight * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * update)
    momentum.copy_(momentum + (1 - far) * (gradient - momentum))


class LionOptimizer(RuleOptimizer):
    """Groups carry lr, betas and weight_decay; the state is one ``momentum`` tensor a parameter."""

    RULES: ClassVar[Mapping[str, Rule]] = {"lion": lion_step}
