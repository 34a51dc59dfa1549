"""A model as it was found elsewhere: every tensor of it used, known to say nothing, or a reason to refuse."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from gptwright.errors import CheckpointError
from gptwright.interop.rules import Rule
from gptwright.model.config import ModelConfig
from gptwright.tokenizer.base import Tokenizer
from gptwright.train.config import RunConfig


class Held(Protocol):
    """Tensors by name, whose shapes can be asked for without reading them."""

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str, /) -> Tensor: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        ...


class InMemory(dict[str, Tensor]):
    """Tensors that have been read already."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self[name].shape)


@dataclass
class Found:
    """A model as it was found elsewhere, in our words."""

    config: ModelConfig
    family: str
    """What kind of checkpoint it was: a `model_type`, or `nanogpt` ..."""
    words: Mapping[str, Any] = field(default_factory=dict)
    """Its settings as they were."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By our names, in the type of number of the source."""
    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Where each tensor of the source went: its name, and those of ours."""
    surplus: list[str] = field(default_factory=list)
    """Tensors of the source that say nothing: masks, frequencies, copies of a tied head."""
    unknown: list[str] = field(default_factory=list)
    """Words of its settings that were not understood, and so not used."""
    notes: list[str] = field(default_factory=list)
    """Sentences that a user should read."""
    tokenizer: Tokenizer | None = None
    """Its tokenizer, if it came with one that can be read."""
    settings: RunConfig | None = None
    """How it was trained, where it is an export of ours."""
    precision: str | None = None
    """What it was trained in, where it is an export of ours."""

    @property
    def used(self) -> int:
        """Tensors of the source that were used."""
        return len(self.places)

    def take(
        self,
        rules: Sequence[Rule],
        held: Held,
        where: Path,
        *,
        surplus: Sequence[str] = (),
        present: Mapping[str, str] | None = None,
    ) -> None:
        """Take in every tensor of ``held``, or refuse all.

        Args:
            rules: how they become ours.
            held: the tensors of the source.
            where: the source, for messages.
            surplus: patterns of names that say nothing.
            present: names as the rules have them to those of the source, where these differ.

        Raises:
            CheckpointError: tensors are missing, too many or of other shapes than the settings say; they are named.
        """
        present = {name: name for name in held} if present is None else present
        wanted = {rule.theirs for rule in rules}
        missing = [rule.theirs for rule in rules if rule.theirs not in present]
        extra = [name for full, name in present.items() if full not in wanted]
        self.surplus = [name for name in extra if any(fnmatch.fnmatchcase(name, pattern) for pattern in surplus)]
        extra = [name for name in extra if name not in self.surplus]
        if missing or extra:
            raise CheckpointError(_mismatch(where, missing, extra))
        _check_shapes(rules, held, present, where)
        for rule in rules:
            self.tensors |= rule.inward(held[present[rule.theirs]])
            self.places[present[rule.theirs]] = rule.ours


def _check_shapes(rules: Sequence[Rule], held: Held, present: Mapping[str, str], where: Path) -> None:
    wrong = [rule for rule in rules if held.shape(present[rule.theirs]) != rule.shape]
    if wrong:
        name, shape = present[wrong[0].theirs], wrong[0].shape
        more = f" ({len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{name} of {where} has the shape {held.shape(name)}, and by the settings beside it it must be "
            f"{shape}{more}; they do not belong together"
        )


def _mismatch(where: Path, missing: list[str], extra: list[str]) -> str:
    parts = [f"lacks {_some(missing)}"] if missing else []
    parts += [f"has {_some(extra)}, for which the architecture of its settings has no place"] if extra else []
    return f"{where} {' and '.join(parts)}; nothing was imported, as the model would be another"


def _some(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + rest
