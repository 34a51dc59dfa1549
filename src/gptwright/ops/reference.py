"""Every fast path has a readable reference beside it; this is where the two are tied together.

A fast function is decorated with the reference that it must agree with, forward and backward::

    @beside(attention_reference)
    def attention(q, k, v, ...): ...

Inside ``with reference_paths():`` the reference runs instead, in whole models too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}
"""Each fast function by its name, with its reference."""


class _Switch:
    wanted = False


def beside(reference: Callable[P, R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare that a function computes what ``reference``, of the same signature, does, and faster."""

    def tie(fast: Callable[P, R]) -> Callable[P, R]:
        PAIRS[fast.__name__] = (fast, reference)

        @wraps(fast)
        def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
            return reference(*args, **kwargs) if _Switch.wanted else fast(*args, **kwargs)

        return chosen

    return tie


@contextmanager
def reference_paths() -> Iterator[None]:
    """Run every reference in place of its fast path, everywhere in this process, until the block ends."""
    before, _Switch.wanted = _Switch.wanted, True
    try:
        yield
    finally:
        _Switch.wanted = before
