"""Reading the settings of a run from a file, a preset, plain data or a run folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptwright.config.load import Resolved, load
from gptwright.model import PRESETS
from gptwright.train.config import RunConfig

Settings = str | Path | Mapping[str, Any] | RunConfig


def read_settings(
    config: Settings | None, overrides: Sequence[str] | Mapping[str, Any] = (), *, trust_code: bool = True
) -> Resolved[RunConfig]:
    """Read the settings of a run from a file, preset or plain data, and ``key=value`` overrides.

    Raises:
        ConfigError: a file cannot be read, or settings are wrong; every problem is listed.
    """
    if isinstance(config, RunConfig):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        return load(RunConfig, config, overrides, search=[PRESETS], trust_code=trust_code)
    if isinstance(overrides, Mapping):
        return load(RunConfig, None, {**config, **overrides}, trust_code=trust_code)
    given = [f"{key}={json.dumps(value)}" for key, value in config.items()]
    return load(RunConfig, None, [*given, *overrides], trust_code=trust_code)
