"""How tensors of one naming become those of another, both ways and without a change of any bit.

A table leads from a module of ours, or several, to the one of theirs, with `{n}` for the layer and `{e}` for the
expert. Where one of theirs holds several of ours, or holds them turned, a `Join` says how.

Shapes: D d_model, H heads, d width of a head.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]
Ours = str | tuple[str, ...]


@dataclass(frozen=True)
class Join:
    """How one tensor of theirs holds some of ours."""

    apart: Callable[[Tensor, Sequence[Shape]], list[Tensor]]
    """Cuts theirs into ours, which have these shapes."""
    together: Callable[[Sequence[Tensor]], Tensor]
    """Makes theirs of ours."""


def _turn(tensor: Tensor) -> Tensor:
    """Turn a matrix; a bias stays as it is."""
    return tensor.t() if tensor.ndim == 2 else tensor


def _rows(tensor: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    return list(tensor.split([shape[0] for shape in shapes]))


SAME = Join(lambda tensor, shapes: [tensor], lambda tensors: tensors[0])
"""One for one."""
TURNED = Join(lambda tensor, shapes: [_turn(tensor)], lambda tensors: _turn(tensors[0]))
"""Inputs before outputs, as GPT-2's `Conv1D` keeps them."""
ROWS = Join(_rows, lambda tensors: torch.cat(list(tensors)))
"""Outputs of several matrices one after the other."""
TURNED_ROWS = Join(lambda tensor, shapes: _rows(_turn(tensor), shapes), lambda tensors: _turn(torch.cat(list(tensors))))
"""The same, inputs before outputs."""


def by_head(n_heads: int) -> Join:
    """Return the join of GPT-NeoX: queries, keys and values of the first head, then those of the second ..."""

    def apart(tensor: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        heads = tensor.unflatten(0, (n_heads, len(shapes), -1))  # (H, 3, d, ...)
        return [heads[:, part].flatten(0, 1) for part in range(len(shapes))]

    def together(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensor.unflatten(0, (n_heads, -1)) for tensor in tensors], 1).flatten(0, 2)

    return Join(apart, together)


def neighbours(n_heads: int) -> Join:
    """Return the join of rows that rotary positions turn in neighbouring pairs; ours are half a head apart."""

    def apart(tensor: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [tensor.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)]

    def together(tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0].unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)

    return Join(apart, together)


@dataclass(frozen=True)
class Rule:
    """Some tensors of ours, and the one of theirs that holds them."""

    ours: tuple[str, ...]
    theirs: str
    shapes: tuple[Shape, ...]
    """Shapes of ours."""
    join: Join = SAME

    @property
    def shape(self) -> Shape:
        """The shape of theirs."""
        return tuple(self.join.together([torch.empty(shape, device="meta") for shape in self.shapes]).shape)

    def inward(self, tensor: Tensor) -> dict[str, Tensor]:
        """Return ours of theirs."""
        found = self.join.apart(tensor, self.shapes)
        return dict(zip(self.ours, (each.contiguous() for each in found), strict=True))

    def outward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return theirs of ours."""
        return self.join.together([tensors[name] for name in self.ours]).contiguous()


Table = Mapping[Ours, str | tuple[str, Join]]
"""Modules of ours to the module of theirs, perhaps with how it holds them."""


def rules_of(table: Table, shapes: Mapping[str, Shape]) -> Iterator[Rule]:
    """Yield a rule for each tensor among ``shapes`` (ours, by name) whose module the table has."""
    numbers = _numbers(shapes)
    for ours, theirs in table.items():
        other, join = theirs if isinstance(theirs, tuple) else (theirs, SAME)
        mine = ours if isinstance(ours, tuple) else (ours,)
        for found in numbers.get(mine[0], ()):
            for kind in (".weight", ".bias", ""):
                names = tuple(_filled(name, found) + kind for name in mine)
                if all(name in shapes for name in names):
                    yield Rule(names, _filled(other, found) + kind, tuple(shapes[name] for name in names), join)


def _numbers(shapes: Mapping[str, Shape]) -> dict[str, list[tuple[str, ...]]]:
    """Return for each module, with `{n}` and `{e}` for its numbers, the numbers that it has."""
    found: dict[str, dict[tuple[str, ...], None]] = {}
    for name in shapes:
        for module in (name.rpartition(".")[0], name):
            numbers = tuple(re.findall(r"(?<=\.)\d+(?=\.|$)", module))
            letters = iter(("{n}", "{e}", "{f}"))
            pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", lambda _, names=letters: next(names), module)
            found.setdefault(pattern, {})[numbers] = None
    return {pattern: list(numbers) for pattern, numbers in found.items()}


def _filled(name: str, numbers: tuple[str, ...]) -> str:
    for letter, number in zip(("{n}", "{e}", "{f}"), numbers, strict=False):
        name = name.replace(letter, number)
    return name
