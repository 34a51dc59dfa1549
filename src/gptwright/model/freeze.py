"""Freezing: which parameters train, chosen by the patterns of `gptwright.nn.patterns`.

A frozen parameter keeps its value: it gets no gradient and no optimizer state, and is not decayed. Freeze before the
optimizer is built; in a run, `train.freeze` and `train.unfreeze` do it, in this order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from gptwright.errors import ConfigError
from gptwright.nn.patterns import bare, named_by


@dataclass(frozen=True)
class Group:
    """One row of the table: parameters of one part, all trained or all frozen."""

    name: str
    """What they are called, the layers that agree together: `layers.0-11.attention`."""
    params: int
    """How many numbers they hold."""
    trains: bool
    """Whether training moves them."""


@dataclass(frozen=True, repr=False)
class TrainableTable:
    """What trains and what is frozen; printed, it is a table."""

    groups: tuple[Group, ...]

    @property
    def params(self) -> int:
        """All parameters, shared ones once."""
        return sum(group.params for group in self.groups)

    @property
    def trained(self) -> int:
        """Those that training moves."""
        return sum(group.params for group in self.groups if group.trains)

    @property
    def frozen(self) -> int:
        """Those that keep their values."""
        return self.params - self.trained

    def lines(self) -> list[str]:
        """Return the table as lines of text."""
        rows = [(group.name, f"{group.params:,}", "trains" if group.trains else "frozen") for group in self.groups]
        rows.append(("total", f"{self.params:,}", f"{self.trained:,} train, {self.frozen:,} are frozen"))
        name, number = (max(len(row[column]) for row in rows) for column in (0, 1))
        return [f"{row[0]:<{name}}  {row[1]:>{number}}  {row[2]}" for row in rows]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__


def freeze(model: nn.Module, *patterns: str) -> TrainableTable:
    """Keep the parameters that any of ``patterns`` names from training, and return what trains now.

    ``freeze(model, "layers.0", "*norm*", "token_embedding")``: see `gptwright.nn.patterns` for what a pattern
    names. A tied parameter has two names and either freezes it, under both.

    Raises:
        ConfigError: a pattern names no parameter; then nothing is changed.
    """
    return _set(model, patterns, trains=False, what="freeze")


def unfreeze(model: nn.Module, *patterns: str) -> TrainableTable:
    """Let the parameters that any of ``patterns`` names train, and return what trains now; see `freeze`.

    Raises:
        ConfigError: a pattern names no parameter; then nothing is changed.
    """
    return _set(model, patterns, trains=True, what="unfreeze")


def choose_trained(model: nn.Module, frozen: Sequence[str], unfrozen: Sequence[str]) -> TrainableTable:
    """Do what `train.freeze` and then `train.unfreeze` say, and return what trains.

    Raises:
        ConfigError: a pattern names no parameter, or nothing is left to train.
    """
    _set(model, frozen, trains=False, what="train.freeze")
    table = _set(model, unfrozen, trains=True, what="train.unfreeze")
    if not table.trained:
        raise ConfigError(
            f"train.freeze {list(frozen)} leaves none of the {table.params:,} parameters to train; name fewer, or "
            "give some back with train.unfreeze, as in [lm_head]"
        )
    return table


def trainable_table(model: nn.Module) -> TrainableTable:
    """Return what trains and what is frozen, part by part, layers that agree in one row."""
    rows: dict[tuple[str, str, int, bool], list[int]] = {}  # (before, after, size, trains): the layers
    for name, params, trains in _by_part(model):
        before, layer, after = _layer(name)
        rows.setdefault((before, after, params, trains), []).append(layer)
    return TrainableTable(
        tuple(
            Group(before + _ranges(layers) + after if after else before, params * len(layers), trains)
            for (before, after, params, trains), layers in rows.items()
        )
    )


def _set(model: nn.Module, patterns: Iterable[str], *, trains: bool, what: str) -> TrainableTable:
    known = dict(model.named_parameters(remove_duplicate=False))
    for name in [name for pattern in patterns for name in named_by(pattern, known, what=what)]:
        known[name].requires_grad_(trains)
    return trainable_table(model)


def _by_part(model: nn.Module) -> Iterator[tuple[str, int, bool]]:
    """Yield (name, numbers, trains) of each part; of each parameter where a part is frozen in places."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(bare(name))
    for part, members in groupby(names.items(), key=lambda item: _part(item[1][0])):
        params = [(parameter, found) for parameter, found in members]
        if len({parameter.requires_grad for parameter, _ in params}) == 1:
            tied = [_part(other) for _, found in params for other in found[1:]]
            yield _with_tied(part, tied), sum(p.numel() for p, _ in params), params[0][0].requires_grad
        else:
            for parameter, found in params:
                yield _with_tied(found[0], found[1:]), parameter.numel(), parameter.requires_grad


def _part(name: str) -> str:
    """Return the part that a parameter belongs to: `layers.3.attention`, `token_embedding`."""
    words = name.split(".")
    return ".".join(words[:3] if words[0] == "layers" else words[:1])


def _with_tied(name: str, others: list[str]) -> str:
    return f"{name} = {', '.join(dict.fromkeys(others))} (tied)" if others else name


def _layer(name: str) -> tuple[str, int, str]:
    """Split `layers.3.attention` at its number; a name without one comes back first, and the rest empty."""
    words = name.split(".", 2)
    if words[0] == "layers" and len(words) == 3 and words[1].isdigit():
        return "layers.", int(words[1]), f".{words[2]}"
    return name, 0, ""


def _ranges(numbers: list[int]) -> str:
    """Write 0, 1, 2, 5 as `0-2,5`."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
