"""Muon for matrices and AdamW for everything else, in one optimizer object with one state.

The idea: the gradient of a matrix is dominated by few directions, so plain momentum keeps moving along
those and starves the rest. Muon replaces the momentum M = U S V^T by about U V^T: every direction moves
equally far.

    momentum  <- momentum + (1 - mu) (gradient - momentum)
    update     = gradient + mu (momentum - gradient)        (Nesterov; plain: momentum)
    weight    <- weight (1 - lr * weight_decay) - lr * sqrt(max(1, out / in)) * orthogonalize(update)

The factor sqrt(max(1, out / in)): an orthogonalised (out, in) matrix that is taller than wide maps an input
of root mean square 1 to an output of only sqrt(in / out); the factor makes lr mean the same change of output
for any shape.

Source: Keller Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/ ; a stack (E, out, in), such
as the experts of a mixture, is E matrices. Cautious decay: Chen et al. (2025), arXiv:2510.12402.
"""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are written with the _foreach functions: one launch for a list of tensors.

from collections.abc import Mapping, MutableMapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from gptwright.ops.newton_schulz import orthogonalize, orthogonalize_reference
from gptwright.optim.adam import adamw_step
from gptwright.optim.rule import Rule, RuleOptimizer, gradients_of, momenta_of

NS_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def muon_step(parameters: list[Tensor], state: MutableMapping[Tensor, Any], group: dict[str, Any]) -> None:
    """Take one Muon step in place; every parameter is (out, in) or (E, out, in) and has a gradient."""
    updates = _momentum_updates(parameters, state, group)
    pairs = sorted(zip(parameters, updates, strict=True), key=lambda pair: tuple(pair[0].shape[-2:]))
    for _, bucket in groupby(pairs, key=lambda pair: pair[0].shape[-2:]):
        weights, raw = map(list, zip(*bucket, strict=True))
        _move(weights, _orthogonalize_all(raw, group), group)


class MuonAdamW(RuleOptimizer):
    """Each parameter group names its rule in ``algorithm``: "muon" or "adamw".

    Muon groups carry lr, momentum, nesterov, weight_decay, cautious, ns_steps and ns_dtype (a key of
    `NS_DTYPES`); adamw groups lr, betas, eps, weight_decay and fused. Parameters without a gradient are
    skipped. The state is one ``momentum`` tensor a matrix, and Adam's ``step, exp_avg, exp_avg_sq`` for the
    others."""

    RULES: ClassVar[Mapping[str, Rule]] = {"muon": muon_step, "adamw": adamw_step}


def _momentum_updates(
    parameters: Sequence[Tensor], state: MutableMapping[Tensor, Any], group: dict[str, Any]
) -> Sequence[Tensor]:
    gradients, momenta = gradients_of(parameters), momenta_of(parameters, state)
    torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
    if not group["nesterov"]:
        return momenta
    return torch._foreach_lerp(gradients, momenta, group["momentum"])


def _orthogonalize_all(updates: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Orthogonalise matrices of one shape together: few large batched products instead of many small ones."""
    out, into = updates[0].shape[-2:]
    stack = torch.cat([update.reshape(-1, out, into) for update in updates])  # (N, out, in)
    flat = orthogonalize(stack, group["ns_steps"], NS_DTYPES[group["ns_dtype"]]).to(stack.dtype)
    flat = flat * max(1.0, out / into) ** 0.5
    parts = flat.split([update.numel() // (out * into) for update in updates])
    return [part.reshape(update.shape) for part, update in zip(parts, updates, strict=True)]


def _move(weights: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
    shrink = group["lr"] * group["weight_decay"]
    if shrink and group["cautious"]:  # only where the update shrinks the weight as well
        aligned = [w * (w * u >= 0) for w, u in zip(weights, updates, strict=True)]
        torch._foreach_add_(weights, aligned, alpha=-shrink)
    elif shrink:
        torch._foreach_mul_(weights, 1 - shrink)
    torch._foreach_add_(weights, updates, alpha=-group["lr"])


def muon_reference(weight: Tensor, gradient: Tensor, momentum: Tensor, group: dict[str, Any]) -> None:
    """Take one Muon step for one matrix (out, in), in place, as the formula at the top reads: slow and
    plain."""
    momentum.lerp_(gradient, 1 - group["momentum"])
    update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
    out, into = weight.shape
    update = orthogonalize_reference(update, group["ns_steps"]) * max(1.0, out / into) ** 0.5
    decayed = weight * (weight * update >= 0) if group["cautious"] else weight
    weight.copy_(weight - group["lr"] * group["weight_decay"] * decayed - group["lr"] * update)
