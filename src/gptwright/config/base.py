"""The base of every settings class: frozen, strict, and documented field by field.

A docstring under a field becomes its help, its JSON Schema description and its row in the docs.
"""

from collections.abc import Mapping
from typing import Any, Self, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from gptwright.config.fields import Place
from gptwright.config.report import explain
from gptwright.errors import ConfigError


class Config(BaseModel):
    """Settings that cannot change, hold no unknown key, and never turn one type into another silently."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Let YAML's lists fill tuples, and a component's settings leave out the type that is the default."""
        place = Place.of(cls.model_fields[str(info.field_name)])
        if isinstance(value, list) and any(_is_tuple(member.annotation) for member in place.alternatives()):
            return tuple(value)
        if isinstance(value, Mapping) and "type" not in value and place.slot() is not None:
            kind = place.default_type()
            return value if kind is None else {"type": kind, **value}
        return value

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trust_code: bool = True) -> Self:
        """Read settings from plain data.

        ``trust_code`` says whether ``type: pkg.module:Class`` may import code.

        Raises:
            ConfigError: with every problem at once.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"settings must be a mapping of keys to values, but are {data!r:.80}")
        try:
            return cls.model_validate(dict(data), context={"trust_code": trust_code})
        except ValidationError as error:
            raise ConfigError(explain(error, cls, data=data)) from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for YAML and JSON, that `from_dict` reads back to an equal object."""
        return self.model_dump(mode="json")


def _is_tuple(annotation: Any) -> bool:
    return annotation is tuple or get_origin(annotation) is tuple
