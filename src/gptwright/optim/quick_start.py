"""Optimizers without torch's compiler: a second less until the first step.

torch hides some methods of its optimizers from the compiler, and loads the compiler for that at their first call,
also where nothing is ever compiled. Inside `without_compiler` they are called as they are.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

_KEPT = "__dynamo_disable"  # where torch keeps what it calls instead


@contextmanager
def without_compiler() -> Iterator[None]:
    """Inside the block, use optimizers without loading the compiler; where it is loaded already, change nothing."""
    changed = [] if "torch._dynamo" in sys.modules else list(_hidden())
    for function in changed:
        setattr(function, _KEPT, function)
    try:
        yield
    finally:
        for function in changed:
            delattr(function, _KEPT)


def _hidden() -> Iterator[Callable[..., Any]]:
    for method in vars(Optimizer).values():
        function = getattr(method, "__wrapped__", None)
        if function is not None and getattr(function, _KEPT, None) is None:
            yield function
