"""The AdamW step, in torch's fused kernel: of `adamw`, and of what other optimizers keep out of their own rule."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from gptwright.optim.rule import Rule, RuleOptimizer, gradients_of

_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def fused_supported(parameters: Sequence[Tensor]) -> bool:
    """Say whether torch's fused Adam kernel takes these parameters."""
    return all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in parameters)


def adamw_step(parameters: list[Tensor], state: MutableMapping[Tensor, Any], group: dict[str, Any]) -> None:
    """Take one AdamW step in place; every parameter has a gradient.

    ``group`` gives lr, betas, eps, weight_decay and fused; ``state`` keeps step, exp_avg and exp_avg_sq of
    each parameter under the names torch's own AdamW uses.
    """
    kept = [_adam_state(state[p], p) for p in parameters]
    adamw(
        parameters,
        gradients_of(parameters),
        [each["exp_avg"] for each in kept],
        [each["exp_avg_sq"] for each in kept],
        [],
        [each["step"] for each in kept],
        fused=group["fused"],
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _adam_state(state: dict[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return state


class AdamWOptimizer(RuleOptimizer):
    """Groups carry what `adamw_step` names; the state is that of `torch.optim.AdamW`, and so are its numbers."""

    RULES: ClassVar[Mapping[str, Rule]] = {"adamw": adamw_step}
