"""Letting a model that exists begin anew."""

from collections.abc import Mapping
from typing import Any

from gptwright.model.config import InitConfig, ModelConfig
from gptwright.model.gpt import GPT


def reinitialise(model: GPT, init: str | Mapping[str, Any] | InitConfig | None = None) -> None:
    """Give all parameters and buffers of ``model`` what a new model has, drawn from torch's global generator.

    ``init`` is a strategy's name, as in ``reinitialise(model, "xavier_uniform")``, or settings as under `model.init`;
    by default those that the model was made with. What is frozen begins anew too, and stays frozen.

    Raises:
        ConfigError: there is no such strategy, or an override names no parameter.
    """
    settings = init.to_dict() if isinstance(init, InitConfig) else init
    config = model.config
    if settings is not None:
        config = ModelConfig.from_dict({**config.to_dict(), "init": settings})
    model.load_state_dict(GPT(config).state_dict())
    model.config = config
