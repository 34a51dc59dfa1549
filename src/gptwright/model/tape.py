"""A decoding step written down once and played again: the same work on the same memory, without the model's code.

While a step is recorded, each operation runs and is noted with the memory that it reads and writes. Those that
``ops/native`` has a kernel for run there; several in a row become one call. Playing it again computes whatever the
inputs hold by then: so all that changes from step to step has to be in tensors, and what does is what a `Sequence.at`
and shared decode states offer. Whatever would depend on a value (a data-dependent branch, a random draw) cannot be
recorded.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gptwright.errors import Unsupported
from gptwright.model.lowering import lowered
from gptwright.ops.native.program import Instruction, Program, record

_aten: Any = torch.ops.aten
_WITHOUT_CONTENTS = {
    _aten.empty.memory_format,
    _aten.empty_strided.default,
    _aten.empty_like.default,
    _aten.new_empty.default,
}
_FILLED = {
    _aten.zeros.default,
    _aten.zeros_like.default,
    _aten.new_zeros.default,
    _aten.full.default,
    _aten.ones.default,
}
"""Made to be written into, as a rule: made anew each time."""


class Tape:
    """What was recorded; `play` does it again."""

    def __init__(self, steps: list[Any], output: Tensor) -> None:
        self.output = output
        """Where the result lies after each `play`."""
        self._calls: list[Callable[[], Any]] = []
        run: list[Instruction] = []
        for step in [*steps, None]:
            if isinstance(step, Instruction):
                run.append(step)
                continue
            if run:
                self._calls.append(Program(run).run)
                run = []
            if step is not None:
                self._calls.append(step)

    def play(self) -> Tensor:
        """Do all of it again; return `output`."""
        for call in self._calls:
            call()
        return self.output

    def __len__(self) -> int:
        return len(self._calls)


class Recorder(TorchDispatchMode):
    """Notes what is computed inside ``with recorder:``; ``constants`` are tensors that never change.

    What is made of constants alone is computed once and not noted.
    """

    def __init__(self, constants: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.steps: list[Any] = []
        self._constant = {_memory(x) for x in constants}
        self._kept: list[Any] = []  # so that no memory is given out twice while it is known by its address
        self._before: list[list[Any] | None] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would load its whole compiler to keep it out of here

    def __enter__(self) -> "Recorder":
        self._before.append(record(self.steps))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        record(self._before.pop())
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and note it."""
        kwargs = kwargs or {}
        found = lowered(func, args, kwargs)
        if found is not None:
            return found
        if func is _aten.dropout.default and not args[2]:
            return args[0]
        if _composite(func):
            with self:  # made of others, which come here one by one
                return func.decompose(*args, **kwargs)
        _refuse(func, args)
        result = func(*args, **kwargs)
        self._kept.append(result)
        self._note(func, args, kwargs, result)
        return result

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        inputs = {_memory(x) for x in _tensors(args)} | {_memory(x) for x in _tensors(kwargs.values())}
        if func._schema.is_mutable:
            if _written(func, args) & self._constant:
                raise Unsupported(f"{func} changes what seemed constant, so that it cannot be recorded")
            self.steps.append(lambda: func(*args, **kwargs))
            return
        results = [result] if isinstance(result, Tensor) else list(result or ())
        outputs = list(_tensors(results))
        if not outputs or not all(isinstance(x, Tensor | list | tuple) for x in results):
            raise Unsupported(f"{func} returns something other than tensors, so that it cannot be recorded")
        if all(_memory(x) in inputs for x in outputs) or func in _WITHOUT_CONTENTS:
            return  # a view is up to date by itself
        if inputs <= self._constant and func not in _FILLED:
            self._constant |= {_memory(x) for x in outputs}
        elif len(outputs) == 1 and (into := _into(func)) is not None:
            self.steps.append(lambda: into(*args, **kwargs, out=outputs[0]))
        else:
            self.steps.append(_Copied(func, args, kwargs, outputs))


def _written(func: Any, args: Any) -> set[int]:
    """Return the memory of the tensors that ``func`` changes."""
    named = zip(func._schema.arguments, args, strict=False)
    changed = [x for argument, x in named if argument.alias_info is not None and argument.alias_info.is_write]
    return {_memory(x) for x in _tensors(changed)}


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments or results of an operation, lists of them included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@cache
def _composite(func: Any) -> bool:
    """Whether an operation is made of others."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _memory(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _refuse(func: Any, args: Any) -> None:
    if torch.Tag.nondeterministic_seeded in func.tags or torch.Tag.data_dependent_output in func.tags:
        raise Unsupported(f"{func} depends on data or chance and cannot be recorded")
    by_place = func is _aten.index.Tensor and all(x is None or x.dtype == torch.int64 for x in args[1])
    if torch.Tag.dynamic_output_shape in func.tags and not by_place:
        raise Unsupported(f"the shape of what {func} returns depends on data, so that it cannot be recorded")


@cache
def _into(func: Any) -> Any:
    """Return the variant of ``func`` that writes into a given tensor, if it has one of the same arguments."""
    packet = func.overloadpacket
    wanted = [(x.name, str(x.type)) for x in func._schema.arguments]
    for overload in packet.overloads():
        other = getattr(packet, overload)
        arguments = other._schema.arguments
        if arguments and arguments[-1].name == "out" and [(x.name, str(x.type)) for x in arguments[:-1]] == wanted:
            return other
    return None


class _Copied:
    """Computes anew, and copies into where the first result lay."""

    def __init__(self, func: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        self.func, self.args, self.kwargs, self.outputs = func, args, kwargs, outputs

    def __call__(self) -> None:
        result = self.func(*self.args, **self.kwargs)
        found = [result] if isinstance(result, Tensor) else _tensors(result)
        for old, new in zip(self.outputs, found, strict=True):
            old.copy_(new)
