"""Reading the settings of a run from a file, a preset, plain data or a run folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptwright.config.load import Resolved, load
from gptwright.config.yaml import Node
from gptwright.errors import ConfigError
from gptwright.model import PRESETS
from gptwright.train.config import RunConfig
from gptwright.train.run import CONFIG
from gptwright.train.start_from import Base, refuse_other_model, taken_from

Settings = str | Path | Mapping[str, Any] | RunConfig
_WHOLE = {"vocab_size", "norm", "position", "wiring", "init"}
"""Settings of a model that a run's own file always has, and that nobody writes all of."""


def read_settings(
    config: Settings | None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    trust_code: bool = True,
    trust_saved: bool = False,
    own: Path | None = None,
) -> Resolved[RunConfig]:
    """Read the settings of a run from a file, preset or plain data, and ``key=value`` overrides.

    With `init_from`, the model and the kind of tokenizer come from there, below all that is given here.

    Args:
        config: a YAML file, a preset's name, plain data, or a `RunConfig`, which is taken as it is.
        overrides: ``key=value`` strings or a mapping from dotted keys to values.
        trust_code: whether ``type: pkg.module:Class`` in ``config`` may import code.
        trust_saved: the same for the settings of the run that `init_from` names.
        own: the run's own saved settings, where it goes on: they have all that it began with, so that the run of
            `init_from` need not be there any more.

    Raises:
        ConfigError: a file cannot be read, or settings are wrong; every problem is listed.
        CheckpointError: there is no sound checkpoint where `init_from` says.
    """
    below = _Below(config, own, trust_saved=trust_saved)
    if isinstance(config, RunConfig):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        found = load(RunConfig, config, overrides, search=[PRESETS], trust_code=trust_code, below=below.layers)
    elif isinstance(overrides, Mapping):
        found = load(RunConfig, None, {**config, **overrides}, trust_code=trust_code, below=below.layers)
    else:
        given = [f"{key}={json.dumps(value)}" for key, value in config.items()]
        found = load(RunConfig, None, [*given, *overrides], trust_code=trust_code, below=below.layers)
    below.check(found.config)
    return found


class _Below:
    """What `init_from` lays below the settings of a run."""

    def __init__(self, config: Settings | None, own: Path | None, *, trust_saved: bool) -> None:
        self.own = own if own is not None and own.is_file() else None
        self.resolved = isinstance(config, RunConfig)
        self.may_be_own = isinstance(config, str | Path) and Path(config).name == CONFIG
        self.trust_saved = trust_saved
        self.base: Base | None = None

    def layers(self, given: Mapping[str, Any]) -> list[Node]:
        """Return the layers below what is ``given``."""
        path = given.get("init_from")
        model = given.get("model")
        whole = self.may_be_own and isinstance(model, Mapping) and model.keys() >= _WHOLE
        if path is None or self.resolved or whole:
            return []
        if not isinstance(path, str) or not path:
            raise ConfigError(f"init_from is {path!r}, and must be a run or checkpoint folder, as in runs/base")
        reads = isinstance(given.get("data"), Mapping)
        if self.own is not None:
            return [taken_from(self.own, tokenizer=reads)]
        self.base = Base(path)
        self.base.model(trust_code=self.trust_saved)  # refused now, with the base's own name
        return [taken_from(self.base.settings, tokenizer=reads)]

    def check(self, config: RunConfig) -> None:
        """Refuse settings under which the base would be another model."""
        if self.base is not None:
            refuse_other_model(config, self.base, trust_code=self.trust_saved)
