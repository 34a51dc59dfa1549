"""What a check is about: the class that a name means, the slot that it fills, and models built around it."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

from gptwright.check.models import BASE, Settings, build
from gptwright.config.slot import Slot
from gptwright.errors import ConfigError, GptwrightError
from gptwright.model.gpt import GPT
from gptwright.nn.base import Module
from gptwright.nn.slots import ATTENTION, FEED_FORWARD, NORM, POSITION

SLOTS = {slot.kind: slot for slot in (ATTENTION, FEED_FORWARD, NORM, POSITION)}
"""The slots that a model has, by kind."""
WIDTHS = (32, 64, 48, 96, 128, 256)
"""Values of d_model to try, the first that a class does not refuse."""

_ANY = Slot("component", package="gptwright.nn", base="gptwright.nn.base:Module")


@dataclass(frozen=True)
class Subject:
    """A component with settings, and the model that it is put into."""

    kind: str
    """The slot that it fills."""
    settings: Settings
    """With `type`, as they stand in YAML."""
    around: Settings
    """Settings of the model around it that are not plain."""

    def build(self, **more: Any) -> GPT:
        """Return a small model around the component."""
        return build({**self.around, self.kind: self.settings, **more})

    @property
    def file(self) -> str:
        """The file that the component's class stands in."""
        return inspect.getfile(find(self.settings["type"])[1])

    @property
    def said(self) -> str:
        """Settings in a few words."""
        own = ", ".join(f"{key}={value}" for key, value in self.settings.items() if key != "type")
        return own or "no settings"


def find(name: str) -> tuple[str, type[Module], str]:
    """Return the kind of slot, the class, and the name in YAML of what ``name`` means.

    ``name`` is `pkg.module:Class`, `file.py:Class`, or the name of a component that comes with gptwright, alone or
    after its slot (`attention.softmax`).

    Raises:
        GptwrightError: there is no such class, or it fills no slot.
    """
    return _own(name) if ":" in name else _built_in(name)


def _own(name: str) -> tuple[str, type[Module], str]:
    path, _, cls = name.rpartition(":")
    folder = None
    if path.endswith(".py"):
        folder, file = os.path.split(os.path.abspath(path))
        name = f"{file.removesuffix('.py')}:{cls}"
    try:
        found: Any = _ANY.resolve(name, folder=folder)
    except PydanticCustomError as error:
        sentence = error.message().replace(_ANY.base.replace(":", "."), "Attention, FeedForward, Norm or Position")
        raise GptwrightError(sentence) from None
    for kind, slot in SLOTS.items():
        if any(f"{base.__module__}:{base.__qualname__}" == slot.base for base in found.__mro__):
            return kind, found, name
    raise GptwrightError(
        f"'{name}' extends gptwright.nn.base.Module alone, which fills no slot; extend Attention, FeedForward, Norm or "
        "Position of gptwright"
    )


def _built_in(name: str) -> tuple[str, type[Module], str]:
    slot_name, _, own = name.rpartition(".")
    homes = [kind for kind, slot in SLOTS.items() if own in slot.names() and slot_name in ("", kind)]
    if not homes:
        known = "; ".join(f"{kind}: {', '.join(slot.names())}" for kind, slot in SLOTS.items())
        raise GptwrightError(
            f"there is no component '{name}'; name a class of your own as package.module:Class or my_file.py:Class, or "
            f"one of {known}"
        )
    if len(homes) > 1:
        raise GptwrightError(
            f"'{name}' may be {' or '.join(f'{kind}.{own}' for kind in homes)}; say which, with its slot"
        )
    found: Any = SLOTS[homes[0]].resolve(own)
    return homes[0], found, own


def subjects(name: str, settings: Mapping[str, Any], around: Mapping[str, Any]) -> list[Subject]:
    """Return what a check of ``name`` runs on: the settings given, or else each of the class's own examples.

    Raises:
        GptwrightError: there is no such class, or settings are missing or wrong.
    """
    kind, found, type_name = find(name)
    given = [dict(settings)] if settings else [dict(example) for example in found.EXAMPLES]
    return [_fitting(Subject(kind, {"type": type_name, **each}, dict(around))) for each in given]


def _fitting(subject: Subject) -> Subject:
    """Give the model the first width that the component does not refuse."""
    widths = (subject.around["d_model"],) if "d_model" in subject.around else WIDTHS
    refusals: list[Exception] = []
    for width in widths:
        fitting = Subject(subject.kind, subject.settings, {**subject.around, "d_model": width})
        try:
            fitting.build()
        except Exception as error:
            refusals.append(error)
        else:
            return fitting
    if isinstance(refusals[0], GptwrightError):
        name = subject.settings["type"]
        raise ConfigError(
            f"{name} cannot be built with {subject.said}: {refusals[0]}; give its settings as KEY=VALUE after its "
            "name, and those of the model around it as model.KEY=VALUE"
        )
    return Subject(subject.kind, subject.settings, {**subject.around, "d_model": BASE["d_model"]})


def company(subject: Subject) -> list[Settings]:
    """Return other surroundings in which the component must work: other wirings, positions, norms and neighbours."""
    others = [
        {"wiring": "post", "norm": "rms_norm", "position": "rotary"},
        {"wiring": "parallel", "norm": "scale_norm", "position": "none", "feed_forward": "glu", "residual_scale": 0.5},
        {"wiring": "sandwich", "layer_scale": 0.5, "position": "rotary", "bias": True, "tie_embeddings": False},
        {"position": "alibi"},
    ]
    rows = [{key: value for key, value in other.items() if key != subject.kind} for other in others]
    if subject.kind == "attention":
        plain = BASE["attention"]
        rows.append({"blocks": {"one": {"attention": plain}, "two": {"attention": subject.settings}}, "n_layers": 4})
    return rows
