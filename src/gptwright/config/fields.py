"""Find the settings class and field that stand at a path, through lists, mappings and chosen components.

Nothing is imported on behalf of the data here: a component of one's own is looked up only if validation
has imported it already, so that explaining a refused file never runs its code.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Protocol, Union, get_args, get_origin, runtime_checkable

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

MISSING: Any = object()
"""Stands for a value that was not given."""


@runtime_checkable
class Menu(Protocol):
    """What this file needs of a `gptwright.config.slot.Slot`."""

    kind: str

    def names(self) -> list[str]:
        """Return the names of the components."""
        ...

    def resolve(self, name: str) -> Any:
        """Return the component class."""
        ...


@dataclass(frozen=True)
class Place:
    """A place in the settings: what may stand there."""

    annotation: Any
    metadata: tuple[Any, ...] = ()
    info: FieldInfo | None = field(default=None, compare=False)

    @classmethod
    def of(cls, info: FieldInfo) -> "Place":
        """Return the place of a field of a settings class."""
        return cls(info.annotation, tuple(info.metadata), info)

    def alternatives(self) -> Iterator["Place"]:
        """Yield each member of a union, with ``Annotated`` unwrapped."""
        origin, args = get_origin(self.annotation), get_args(self.annotation)
        if origin is Annotated:
            yield from Place(args[0], self.metadata + args[1:], self.info).alternatives()
        elif origin in (Union, UnionType):
            for member in args:
                yield from Place(member, self.metadata, self.info).alternatives()
        else:
            yield self

    def slot(self) -> Menu | None:
        """Return the slot that stands here, if it is one."""
        found = (item for place in self.alternatives() for item in place.metadata if isinstance(item, Menu))
        return next(found, None)

    def default_type(self) -> str | None:
        """Return the component that the field's default names."""
        if self.info is None:
            return None
        default = self.info.get_default(call_default_factory=not self.info.default_factory_takes_validated_data)
        if isinstance(default, Mapping):
            default = default.get("type")
        name = getattr(default, "type", default)
        return name if isinstance(name, str) else None

    def settings(self, value: Any) -> type[BaseModel] | None:
        """Return the settings class that reads ``value`` here, or None for anything but settings."""
        slot = self.slot()
        if slot is not None:
            return _component_settings(slot, type_of(value) or self.default_type())
        classes = (place.annotation for place in self.alternatives())
        return next((c for c in classes if isinstance(c, type) and issubclass(c, BaseModel)), None)

    def child(self, key: Any, value: Any) -> "Place | None":
        """Return the place of ``key`` inside this one, which now holds ``value``."""
        settings = self.settings(value)
        if settings is not None:
            info = settings.model_fields.get(str(key))
            return None if info is None else Place.of(info)
        return next((inner for place in self.alternatives() for inner in _element(place)), None)


def type_of(value: Any) -> str | None:
    """Return the component that a slot's value names: a bare name, or the ``type`` of a mapping."""
    if isinstance(value, Mapping):
        value = value.get("type")
    return value if isinstance(value, str) and value else None


def get(value: Any, key: Any) -> Any:
    """Return an item of a mapping or a list, `MISSING` when there is none."""
    if isinstance(value, Mapping):
        return value.get(key, MISSING)
    if isinstance(value, list | tuple) and isinstance(key, int) and -1 < key < len(value):
        return value[key]
    return MISSING


def dotted(path: tuple[Any, ...]) -> str:
    """Return a path as the user writes it: `model.pattern.0`."""
    return ".".join(str(part) for part in path)


def _component_settings(slot: Menu, name: str | None) -> type[BaseModel] | None:
    if name is None:
        return None
    if ":" not in name:
        try:
            return slot.resolve(name).Config
        except PydanticCustomError:
            return None
    module, _, qualified = name.partition(":")
    found = getattr(sys.modules.get(module), qualified, None)
    settings = getattr(found, "Config", None)
    return settings if isinstance(settings, type) and issubclass(settings, BaseModel) else None


def _element(place: Place) -> Iterator[Place]:
    origin, args = get_origin(place.annotation), get_args(place.annotation)
    if not isinstance(origin, type) or not args:
        return
    if issubclass(origin, Mapping):
        yield Place(args[1])
    elif issubclass(origin, list | tuple | set | frozenset):
        yield Place(args[0])
