"""What may change when a run goes on, and what may not."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from gptwright.errors import ConfigError
from gptwright.train.config import RunConfig

FREE_TO_CHANGE = (
    "train.steps",
    "train.micro_batch",
    "train.compile",
    "train.gradient_checkpointing",
    "train.gradient_stats",
    "train.skip_limit",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep_best",
    "train.sample_every",
    "train.sample_tokens",
    "train.sample_prompt",
    "train.trackers",
    "train.callbacks",
)
"""Settings that may differ when a run is resumed: they do not touch what was learnt so far."""


STATE_BREAKERS = ("optim.type", "optim.groups", "train.freeze", "train.unfreeze", "lora")
"""Settings after whose change an optimizer's state belongs to other parameters, or to another rule."""


def optimizer_state_fits(config: RunConfig, saved: Mapping[str, Any]) -> bool:
    """Say whether the optimizer state of a run whose settings were ``saved`` is one that ``config`` can go on with."""
    old, new = dict(flat(_completed(saved, config))), dict(flat(config.to_dict()))
    return all(old.get(key) == new.get(key) for key in {*old, *new} if _below(key, STATE_BREAKERS))


def refuse_other_settings(
    folder: Path, config: RunConfig, saved: Mapping[str, Any], on_purpose: Collection[str] = ()
) -> None:
    """Make sure that ``config`` continues the run of ``folder``, whose settings were ``saved``.

    ``on_purpose`` are keys that may differ all the same.

    Raises:
        ConfigError: naming the settings that differ.
    """
    old, new = dict(flat(_completed(saved, config))), dict(flat(config.to_dict()))
    if config.model.vocab_size is None:  # taken from the data, which are compared by themselves
        new["model.vocab_size"] = old.get("model.vocab_size")
    differ = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    swapped = tuple(key.removesuffix("type") for key in differ if key.endswith(".type"))
    differ = [key for key in differ if key.endswith(".type") or not key.startswith(swapped)]  # the part says it all
    differ = [key for key in differ if not _below(key, FREE_TO_CHANGE) and not _below(key, on_purpose)]
    if differ:
        changes = "; ".join(f"{key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in differ[:6])
        raise ConfigError(
            f"run {folder} cannot be resumed with other settings: {changes}; resume with the settings that it "
            f"began with, change them on purpose with --resume-with {differ[0]}=VALUE, or start a new run with --run"
        )


def _completed(saved: Mapping[str, Any], config: RunConfig) -> Mapping[str, Any]:
    """Return ``saved`` with the defaults of settings that did not exist when it was written.

    Code that it names is imported only where ``config``, which the user trusts, names it too.
    """
    try:
        return RunConfig.from_dict(saved, trust_code=_code(saved) <= _code(config.to_dict())).to_dict()
    except ConfigError:  # what it says is compared as it stands
        return saved


def _code(data: Mapping[str, Any]) -> set[str]:
    return {value for key, value in flat(data) if key.endswith("type") and isinstance(value, str) and ":" in value}


def _below(key: str, parents: Iterable[str]) -> bool:
    """Say whether ``key`` is one of ``parents``, below one, or the type of a part below which one lies."""
    below = any(key == parent or key.startswith(f"{parent}.") for parent in parents)
    return below or key in {f"{parent.rpartition('.')[0]}.type" for parent in parents}


def flat(data: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield each single setting of nested plain data with its dotted path."""
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list) and any(isinstance(value, Mapping) for value in data):
        for index, value in enumerate(data):
            yield from flat(value, f"{path}.{index}")
    else:
        yield path, data
