"""The settings as JSON Schema, for editors and for a golden file; and the differences of two settings."""

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic.json_schema import GenerateJsonSchema, NoDefault
from pydantic_core.core_schema import WithDefaultSchema

from gptwright.config.base import Config
from gptwright.config.fields import MISSING, dotted
from gptwright.config.slot import SCHEMA_KEY, Component, Slot

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_OWN_CLASS = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


def json_schema(root: type[Config]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of every setting under ``root``, with all components of all slots.

    A component stands under `$defs` as `kind.name`, a slot as `kind`.
    """
    return _Writer().write(root)


class _WithDefaults(GenerateJsonSchema):
    """Also writes down the defaults that a factory makes."""

    def get_default_value(self, schema: WithDefaultSchema) -> Any:
        """Return the default of a field, or `NoDefault`."""
        factory = schema.get("default_factory")
        if factory is None or schema.get("default_factory_takes_data"):
            return schema.get("default", NoDefault)
        return factory()  # pyright: ignore[reportCallIssue] - takes no data, see above


class _Writer:
    """Collects the definitions that the settings refer to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def write(self, root: type[Config]) -> dict[str, Any]:
        body = self.settings(root, "#/$defs/")
        self.definitions.update(body.pop("$defs", {}))
        body["properties"]["extends"] = {
            "description": "Files or presets whose settings lie under these; a later one wins.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        }
        definitions = {name: self.definitions[name] for name in sorted(self.definitions)}
        return {"$schema": _DIALECT, **body, "$defs": definitions}

    def settings(self, settings: type[Config], prefix: str) -> dict[str, Any]:
        """Return the schema of one settings class; its own definitions are referred to under ``prefix``."""
        body = settings.model_json_schema(ref_template=prefix + "{model}", schema_generator=_WithDefaults)
        return self.fill(body)

    def fill(self, value: Any) -> Any:
        """Return ``value`` with the menu of each slot in its place."""
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if not isinstance(value, dict):
            return value
        filled = {key: self.fill(item) for key, item in value.items() if key != SCHEMA_KEY}
        if SCHEMA_KEY in value:
            self.slot(value[SCHEMA_KEY])
            filled["$ref"] = f"#/$defs/{value[SCHEMA_KEY].kind}"
            if "default" not in value:
                filled["required"] = ["type"]  # JSON Schema asks this of mappings only, not of a bare name
        return filled

    def slot(self, slot: Slot) -> None:
        if slot.kind in self.definitions:
            return
        self.definitions[slot.kind] = menu = {}  # put down first: a component may hold its own kind of slot
        components = slot.components()
        for name, component in components.items():
            self.definitions[f"{slot.kind}.{name}"] = self.component(slot, name, component)
        bare = [name for name, component in components.items() if not _required(component)]
        menu["anyOf"] = [
            *([{"enum": bare}] if bare else []),
            *({"$ref": f"#/$defs/{slot.kind}.{name}"} for name in components),
            {"type": "string", "pattern": _OWN_CLASS},
            {
                "type": "object",
                "properties": {"type": {"type": "string", "pattern": _OWN_CLASS}},
                "required": ["type"],
            },
        ]

    def component(self, slot: Slot, name: str, component: type[Component]) -> dict[str, Any]:
        body = self.settings(component.Config, f"#/$defs/{slot.kind}.{name}/$defs/")
        properties = dict(body["properties"])
        kind = {"const": name, "description": properties.pop("type").get("description", "")}
        described = {"description": inspect.cleandoc(component.__doc__)} if component.__doc__ else {}
        return {**body, "title": name, **described, "properties": {"type": kind, **properties}}


def _required(component: type[Component]) -> bool:
    return any(info.is_required() for info in component.Config.model_fields.values())


class Difference(NamedTuple):
    """A setting that two resolved settings do not share."""

    path: str
    """Its dotted path."""
    a: Any
    """The value in the first, `MISSING` when it is not there."""
    b: Any
    """The value in the second."""


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return every setting in which two plain settings differ, in the order of ``a`` and then ``b``."""
    return list(_differences(a, b, ()))


def _differences(a: Any, b: Any, path: tuple[str, ...]) -> Iterator[Difference]:
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        if not _same(a, b):
            yield Difference(dotted(path), a, b)
        return
    for key in dict.fromkeys([*a, *b]):
        yield from _differences(a.get(key, MISSING), b.get(key, MISSING), (*path, str(key)))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return a == b and isinstance(a, bool) == isinstance(b, bool)
