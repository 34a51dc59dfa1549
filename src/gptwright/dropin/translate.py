"""What the faces share: settings in a design's own words, read, checked and translated."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from pydantic import ValidationError

from gptwright.config.base import Config
from gptwright.config.report import explain
from gptwright.errors import ConfigError
from gptwright.interop.names import PLACES, in_words_of, translate
from gptwright.model.config import ModelConfig


def to_model(words: Mapping[str, Any], **ours: Any) -> ModelConfig:
    """Return the settings of a model from a design's ``words`` over what it leaves unsaid, ``ours``.

    Raises:
        ConfigError: they do not fit; the message speaks in ``words``.
    """
    try:
        return ModelConfig.from_dict(translate(words, ours))
    except ConfigError as error:
        raise ConfigError(in_words_of(str(error), words)) from None


def device_named(device: str | torch.device) -> torch.device:
    """Return the device of this name.

    Raises:
        ConfigError: there is none.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device '{device}' is none that torch knows; use cpu, cuda, cuda:1 or mps") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}' was asked for but this torch sees no CUDA device; use device cpu")
    return found


class Words(Config):
    """Settings in a design's own words; a word that means a setting of ours is translated by its name."""

    WITHOUT: ClassVar[dict[str, str]] = {}
    """What is said to the words of other designs."""

    def __init__(self, **words: Any) -> None:
        try:
            super().__init__(**words)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self), data=words)) from None

    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess] - files are read without it

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Let the words of other designs be answered with this one's."""
        super().__pydantic_init_subclass__(**kwargs)
        own = {PLACES[name]: name for name in cls.model_fields if name in PLACES}
        others = {word: own[place] for word, place in PLACES.items() if place in own and word not in cls.model_fields}
        cls.WITHOUT = {word: f"unknown key; here it is called '{name}'" for word, name in others.items()}

    @classmethod
    def read(cls, config: Any) -> Self:
        """Return settings from a dictionary, a namespace or any object with attributes.

        Raises:
            ConfigError: a word is missing or unknown.
        """
        if isinstance(config, cls):
            return config
        if isinstance(config, Mapping):
            return cls(**{str(key): value for key, value in config.items()})
        names = [name for name in dir(config) if not name.startswith("_")]
        return cls(**{name: value for name in names if not callable(value := getattr(config, name))})

    def words(self) -> dict[str, Any]:
        """Return the words that mean a setting of ours and have a value."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in own.items() if name in PLACES and value is not None}

    def to_model(self, **ours: Any) -> ModelConfig:
        """Return the settings of the model, ``ours`` where this design says nothing."""
        return to_model(self.words(), **ours)
