"""Rules of one's own for some parameters: another learning rate, another decay, or none at all.

``optim.groups`` is a list of rules, each for the parameters that its patterns name
(`gptwright.nn.patterns`). Later rules win over earlier ones, setting by setting. Fine-tuning with a learning
rate that falls towards the input (Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146), with the
embedding kept as it is::

    optim:
      type: adamw
      lr: 1e-3
      groups:
        - {match: token_embedding, freeze: true}
        - {match: layers.0, lr_scale: 0.1}
        - {match: layers.1, lr_scale: 0.3}
        - {match: [lm_head, "*norm*"], weight_decay: 0.0}

A tied parameter has two names, and is meant by either.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, NonNegativeFloat, PositiveFloat, WithJsonSchema, model_validator
from torch import nn

from gptwright.config.base import Config
from gptwright.errors import ConfigError
from gptwright.nn.patterns import named_by
from gptwright.optim.roles import named

_SETTINGS = ("lr_scale", "weight_decay", "freeze")
"""What a rule may set."""

_ONE_OR_MORE = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Patterns = Annotated[
    list[str],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema(_ONE_OR_MORE),
]
"""Patterns in a list, or a single one without."""


class GroupRule(Config):
    """What is different for the parameters that some patterns name."""

    match: Patterns
    """Patterns of the parameters' names: `layers.0`, `"*norm*"`, `[token_embedding, lm_head]`."""
    lr_scale: PositiveFloat | None = None
    """What their learning rate is multiplied by, all through the schedule; null leaves it."""
    weight_decay: NonNegativeFloat | None = None
    """Their weight decay in place of the optimizer's, also for embeddings and vectors; null leaves it."""
    freeze: bool | None = None
    """Whether they keep their values: no gradient, no optimizer state. False takes back an earlier rule's true."""

    @model_validator(mode="after")
    def _says_what_and_how(self) -> "GroupRule":
        if not self.match:
            raise ValueError("match is an empty list and names nothing; give it a pattern, as in [layers.0]")
        if all(getattr(self, setting) is None for setting in _SETTINGS):
            raise ValueError(
                f"the rule for {', '.join(self.match)} sets none of lr_scale, weight_decay and freeze; "
                "set one, or leave the rule out"
            )
        return self


@dataclass
class _Chosen:
    """What the rules come to for one parameter: the last value of each setting, and the patterns it came from."""

    parameter: nn.Parameter
    values: dict[str, Any] = field(default_factory=dict)
    patterns: dict[str, list[str]] = field(default_factory=dict)

    def take(self, rule: GroupRule) -> None:
        for setting in _SETTINGS:
            value = getattr(rule, setting)
            if value is not None:
                self.values[setting], self.patterns[setting] = value, rule.match

    def label(self) -> str:
        """Return what changed how the parameter is moved, `layers.0: lr_scale 0.1`; empty where nothing did."""
        told = (name for name in ("lr_scale", "weight_decay") if name in self.values)
        return "; ".join(f"{', '.join(self.patterns[name])}: {name} {self.values[name]:g}" for name in told)


def freeze(model: nn.Module, rules: Sequence[GroupRule]) -> None:
    """Take from training what ``rules`` freeze; nothing is given back that was frozen before.

    Raises:
        ConfigError: a pattern names no parameter, or nothing is left to train; then nothing is changed.
    """
    frozen = [chosen.parameter for chosen in _choose(model, rules) if chosen.values.get("freeze")]
    trained = {id(p): p for p in model.parameters() if p.requires_grad}
    if trained and not trained.keys() - {id(p) for p in frozen}:
        count = sum(p.numel() for p in trained.values())
        raise ConfigError(
            f"optim.groups freezes all of the {count:,} parameters that would train; freeze fewer, or give some back "
            "with a later rule, as in {match: lm_head, freeze: false}"
        )
    for parameter in frozen:
        parameter.requires_grad_(False)


def split(groups: Iterable[dict[str, Any]], model: nn.Module, rules: Sequence[GroupRule]) -> list[dict[str, Any]]:
    """Return parameter groups in which each parameter has the learning rate and decay that ``rules`` give it.

    A group stays one where no rule tells its parameters apart; else what a rule changes follows the rest of its
    group, as ``"decay (layers.0: lr_scale 0.1)"``. Empty groups are left out, and each gets its ``initial_lr``.

    Args:
        groups: dicts with name, params, lr and weight_decay.
        model: owner of the parameters.
        rules: the settings' `groups`.

    Raises:
        ConfigError: a pattern names no parameter.
    """
    chosen = {id(each.parameter): each for each in _choose(model, rules)}
    return [part for group in groups for part in _parts(group, chosen)]


def _parts(group: dict[str, Any], chosen: dict[int, _Chosen]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"": {**group, "params": [], "initial_lr": group["lr"]}}
    for parameter in group["params"]:
        each = chosen.get(id(parameter))
        label = each.label() if each else ""
        if each and label not in found:
            found[label] = _changed(group, label, each.values)
        found[label]["params"].append(parameter)
    return [part for part in found.values() if part["params"]]


def _changed(group: dict[str, Any], label: str, values: dict[str, Any]) -> dict[str, Any]:
    lr, decay = group["lr"] * values.get("lr_scale", 1.0), values.get("weight_decay", group["weight_decay"])
    name = f"{group['name']} ({label})"
    return {**group, "name": name, "params": [], "lr": lr, "initial_lr": lr, "weight_decay": decay}


def _choose(model: nn.Module, rules: Sequence[GroupRule]) -> list[_Chosen]:
    """Return what the rules say of each parameter that any of them names."""
    if not rules:
        return []
    owners = {name: parameter for name, _, parameter in named(model)}
    chosen = {id(parameter): _Chosen(parameter) for parameter in owners.values()}
    for number, rule in enumerate(rules):
        for pattern in rule.match:
            for name in named_by(pattern, owners, what=f"optim.groups.{number}.match"):
                chosen[id(owners[name])].take(rule)
    return [each for each in chosen.values() if each.values]
