"""What went bad first: the one tensor to look at when a loss or a gradient is not finite."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def first_bad_tensor(model: nn.Module, objective: Callable[[], Tensor]) -> str | None:
    """Run ``objective`` of ``model`` forward and backward, and name the first tensor that is not finite.

    Parameters are looked at first, then outputs in the order in which they are computed, the objective itself, and
    gradients in the order in which they come. None: everything is finite this time. Gradients are left cleared.
    """
    names = {id(module): name or "the model" for name, module in model.named_modules()}
    for name, parameter in model.named_parameters():
        if _bad(parameter):
            return f"the weight {name} {_what(parameter)}"
    with _watching(model, names) as found:
        value = objective()
        if not found and _bad(value):
            found.append(f"the loss {_what(value)}")
        if not found and value.requires_grad:
            value.backward()
            found += (
                f"the gradient of {name} {_what(p.grad)}"
                for name, p in model.named_parameters()
                if p.grad is not None and _bad(p.grad)
            )
    model.zero_grad(set_to_none=True)
    return found[0] if found else None


@contextmanager
def _watching(model: nn.Module, names: dict[int, str]) -> Iterator[list[str]]:
    """Yield a list to which what is found is added, in the order of its being found."""
    found: list[str] = []

    def forward(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in (output,) if isinstance(output, Tensor) else ():
            if _bad(tensor):
                found.append(f"the output of {names[id(module)]} {_what(tensor)}")
            if tensor.requires_grad:
                tensor.register_hook(lambda grad: backward(module, grad))

    def backward(module: nn.Module, grad: Tensor) -> None:
        if _bad(grad):
            found.append(f"the gradient of the output of {names[id(module)]} {_what(grad)}")

    with ExitStack() as hooks:
        for module in model.modules():
            hooks.enter_context(_removed(module.register_forward_hook(forward)))
        yield found


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _bad(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())


def _what(tensor: Tensor) -> str:
    nans, infinities = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
    kinds = [f"{count:,} NaN" for count in [nans] if count] + [f"{count:,} infinite" for count in [infinities] if count]
    shape = "x".join(map(str, tensor.shape)) or "one number"
    return f"({shape}) holds {' and '.join(kinds)} of {tensor.numel():,} values"
