"""The rule of stochastic gradient descent with momentum, in torch's own kernel.

    gradient <- gradient + weight_decay * weight             (classic decay only)
    momentum <- mu * momentum + gradient
    update    = gradient + mu * momentum                     (Nesterov; plain: momentum)
    weight   <- weight (1 - lr * weight_decay) - lr * update (the factor: decoupled decay only)

Sources: Sutskever et al. (2013), https://proceedings.mlr.press/v28/sutskever13.html, for the momentum; Loshchilov
and Hutter (2019), https://arxiv.org/abs/1711.05101, for the decay that does not pass through it.
"""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are written with the _foreach functions: one launch for a list of tensors.

from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from gptwright.optim.rule import Rule, RuleOptimizer, gradients_of, momenta_of


def sgd_step(parameters: list[Tensor], state: MutableMapping[Tensor, Any], group: dict[str, Any]) -> None:
    """Take one step in place; every parameter has a gradient.

    ``group`` gives lr, momentum, nesterov, weight_decay, classic (which decay) and fused (whether torch has the
    kernel).
    """
    lr, mu, decay = group["lr"], group["momentum"], group["weight_decay"]
    if decay and not group["classic"]:
        torch._foreach_mul_(parameters, 1 - lr * decay)
    sgd(
        parameters,
        gradients_of(parameters),
        [*momenta_of(parameters, state)] if mu else [None] * len(parameters),
        fused=group["fused"],
        lr=lr,
        momentum=mu,
        nesterov=group["nesterov"] and mu > 0,
        weight_decay=decay if group["classic"] else 0.0,
        dampening=0.0,
        maximize=False,
    )


def sgd_reference(weight: Tensor, gradient: Tensor, momentum: Tensor, group: dict[str, Any]) -> None:
    """Take one step for one parameter, in place, as the formula at the top reads."""
    lr, mu, decay = group["lr"], group["momentum"], group["weight_decay"]
    if group["classic"]:
        gradient = gradient + decay * weight
    momentum.copy_(mu * momentum + gradient)
    update = gradient + mu * momentum if group["nesterov"] else momentum
    kept = 1.0 if group["classic"] else 1 - lr * decay
    weight.copy_(weight * kept - lr * update)


class SGDOptimizer(RuleOptimizer):
    """Groups carry what `sgd_step` names; the state is one ``momentum`` tensor a parameter, none without momentum."""

    RULES: ClassVar[Mapping[str, Rule]] = {"sgd": sgd_step}
