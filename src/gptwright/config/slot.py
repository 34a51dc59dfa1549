"""Slots: places in the settings that a component fills, named by file or by import path.

``attention: softmax`` and ``attention: {type: softmax, n_heads: 6}`` name the file
``nn/attention/softmax.py``; ``{type: my_file:MyAttention}`` names a class anywhere. The folder
listing is the menu: nothing has to be registered.
"""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from gptwright.config.base import Config

SCHEMA_KEY = "x-gptwright-slot"
"""The key under which a slot leaves itself in the JSON Schema that pydantic writes."""


class ComponentConfig(Config):
    """Settings of one component; ``type`` is its name in YAML."""

    owner: ClassVar[type["Component"]]
    WITHOUT: ClassVar[dict[str, str]] = {}
    """Settings of other components that mean nothing here, with the reason and the way out; `{type}` is the name."""

    type: str = ""
    """The component: its file name, or `package.module:Class` for one of your own."""

    @model_validator(mode="before")
    @classmethod
    def _fill_type(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("type"):
            return {"type": cls.owner.type_name(), **{k: v for k, v in data.items() if k != "type"}}
        return data

    def check(self, ctx: Any) -> Iterable[tuple[str, str]]:
        """Yield ``(key, sentence)`` for each setting that does not fit its surroundings ``ctx``."""
        del ctx
        return ()


class Component:
    """Something that a slot can hold: a class with a nested ``Config``, built as ``Class(config, ctx)``."""

    Config: ClassVar[Any] = ComponentConfig

    EXAMPLES: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Small settings that the contract tests, the docs and the schema build."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Config" not in cls.__dict__:  # each class owns its Config, so that a Config knows what it builds
            names = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.Config"}
            cls.Config = type("Config", (cls.Config,), names)
        cls.Config.owner = cls

    @classmethod
    def type_name(cls) -> str:
        """Return the name that YAML uses: the file for ours, the import path for anybody else's."""
        if cls.__module__.startswith("gptwright."):
            return cls.__module__.rpartition(".")[2]
        return f"{cls.__module__}:{cls.__qualname__}"


@dataclass(frozen=True)
class Slot:
    """Annotates a settings field that holds a component's ``Config``."""

    kind: str
    """What it is called in messages, for example `attention`."""
    package: str
    """The package whose files are the menu."""
    base: str
    """`module:Class` that every component of this slot extends."""

    def names(self) -> list[str]:
        """Return the menu: one name a file, read from the folder without importing anything."""
        spec = importlib.util.find_spec(self.package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        files = (file for folder in folders for file in Path(folder).glob("*.py"))
        return sorted(file.stem for file in files if not file.stem.startswith("_"))

    def default(self, name: str) -> Callable[[], Any]:
        """Return a maker of the settings that component ``name`` has by default."""
        return lambda: self.resolve(name).Config()

    def components(self) -> dict[str, type[Component]]:
        """Return every component of the menu by name, imported."""
        return {name: self.resolve(name) for name in self.names()}

    def resolve(
        self, name: str, *, trust_code: bool = True, folder: str | Sequence[str] | None = None
    ) -> type[Component]:
        """Return the class that ``name`` means; ``folder`` (one or several) is also searched for code of one's own.

        Raises:
            PydanticCustomError: the name is unknown, its code is not trusted or does not import.
        """
        if ":" in name:
            return self._import_path(name, trust_code=trust_code, folder=folder)
        if name not in self.names():
            raise self._unknown(name)
        module = importlib.import_module(f"{self.package}.{name}")
        return next(found for found in _public_classes(module) if issubclass(found, self._base()))

    def _base(self) -> type[Component]:
        module, _, name = self.base.partition(":")
        return getattr(importlib.import_module(module), name)

    def _unknown(self, name: str) -> PydanticCustomError:
        close = get_close_matches(name, self.names(), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        own = ", or package.module:Class for your own"
        message = f"unknown {self.kind} '{name}'{hint} (known: {', '.join(self.names())}{own})"
        return PydanticCustomError("unknown_component", "{message}", {"message": message})

    def _import_path(self, path: str, *, trust_code: bool, folder: str | Sequence[str] | None) -> type[Component]:
        if not trust_code:
            raise _problem(
                f"{self.kind} '{path}' would import code named by a saved folder; "
                "pass --trust-code (trust_code=True in Python) if you trust that code"
            )
        module_name, _, class_name = path.partition(":")
        if module_name.endswith((".py", "/")) or "/" in module_name:
            raise _problem(
                f"{self.kind} '{path}' must be written as Python imports it, package.module:Class; "
                "for a class in my_file.py beside your settings, my_file:MyClass"
            )
        with _importable(folder):
            try:
                module = importlib.import_module(module_name)
            except Exception as error:
                places = " or ".join(f"'{place}'" for place in _places(folder))
                raise _problem(
                    f"{self.kind} '{path}' cannot be imported: {type(error).__name__}: {error} "
                    f"(looked on Python's path and in {places})"
                ) from error
        found = getattr(module, class_name, None)
        if found is None:
            close = get_close_matches(class_name, vars(module), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise _problem(f"module '{module_name}' has no class '{class_name}'{hint}")
        if not (inspect.isclass(found) and issubclass(found, self._base())):
            raise _problem(f"'{path}' must be a class that extends {self.base.replace(':', '.')}")
        return found

    def _validate(self, value: Any, info: ValidationInfo) -> ComponentConfig:
        if isinstance(value, ComponentConfig):
            return self._accept(value)
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            known = ", ".join(self.names())
            raise _problem(f"must name the {self.kind} to use: one of {known}, or a mapping with 'type'")
        context = info.context or {}
        trust_code, folder = context.get("trust_code", True), context.get("folder")
        component = self.resolve(value["type"], trust_code=trust_code, folder=folder)
        return component.Config.model_validate(dict(value), context=context)

    def _accept(self, config: ComponentConfig) -> ComponentConfig:
        if not issubclass(config.owner, self._base()):
            raise _problem(f"a {config.owner.__name__} is not a {self.kind}")
        return config

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        del schema, handler
        return {SCHEMA_KEY: self}  # gptwright.config.schema writes the menu in its place

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda config: config.to_dict()),
        )


def _problem(message: str) -> PydanticCustomError:
    return PydanticCustomError("component", "{message}", {"message": message})


def _public_classes(module: Any) -> Iterator[type]:
    for name, found in vars(module).items():
        if inspect.isclass(found) and found.__module__ == module.__name__ and not name.startswith("_"):
            yield found


def _places(folder: str | Sequence[str] | None) -> list[str]:
    folders = [folder] if isinstance(folder, str) else list(folder or ())
    return list(dict.fromkeys(os.path.abspath(place) for place in [*folders, os.getcwd()]))


@contextmanager
def _importable(folder: str | Sequence[str] | None) -> Iterator[None]:
    """Let the user's own files be imported from the settings' folder and the current one."""
    before = list(sys.path)
    sys.path[:0] = _places(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
