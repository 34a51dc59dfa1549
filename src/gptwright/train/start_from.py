"""Training that begins with what another run learnt: its model settings, its tokenizer and its weights.

`init_from: runs/base` puts the settings of the base's model below the user's own, as `extends` would. The base is read
when a run begins, and never again: a run's own checkpoints have everything.
"""

import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from gptwright.config.yaml import Node, Source, parse
from gptwright.errors import CheckpointError, ConfigError
from gptwright.model.config import ModelConfig
from gptwright.model.gpt import GPT
from gptwright.model.memory import meta_model
from gptwright.tokenizer.base import Tokenizer
from gptwright.tokenizer.load import load as load_tokenizer
from gptwright.train.checkpoint import Checkpoint
from gptwright.train.config import RunConfig
from gptwright.train.lora import add_adapters
from gptwright.train.resume import flat
from gptwright.train.run import CONFIG
from gptwright.train.saved import Saved, find_checkpoint, named

FREE = (
    "dropout",
    "*.dropout",
    "*.attention_dropout",
    "max_seq_len",
    "init",
    "init.*",
    "position.theta",
    "position.scaling",
    "position.scaling.*",
    "*.window",
    "*.balance",
    "*.balance_weight",
    "*.balance_rate",
    "*.z_weight",
)
"""Settings of a model (patterns) that may differ from the base's, where they leave all shapes as they are."""


class Base:
    """A run or checkpoint that another one begins with.

    Raises:
        CheckpointError: there is nothing at ``path``, or every checkpoint is damaged.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with named("init_from"):
            self.found, damaged = find_checkpoint(path)
        for sentence in damaged:
            warnings.warn(f"init_from: {sentence}; using step {self.found.step} instead", stacklevel=2)

    @property
    def settings(self) -> Path:
        """The file of its settings."""
        return self.found.folder / CONFIG

    def model(self, *, trust_code: bool) -> ModelConfig:
        """Return the settings of its model.

        Raises:
            ConfigError: they cannot be used, or name code that is not trusted.
        """
        taken = taken_from(self.settings).plain()
        try:
            return ModelConfig.from_dict(taken.get("model", {}), trust_code=trust_code)
        except ConfigError as error:
            raise ConfigError(f"init_from: {self.settings} cannot be used: {error}") from None


def taken_from(settings: Path, *, tokenizer: bool = True) -> Node:
    """Return what a saved file of settings gives to a run that begins with it: the model, and the kind of tokenizer."""
    tree = parse(settings.read_text("utf-8", errors="replace"), Source(str(settings)))
    whole: Mapping[str, Node] = tree.value if tree and isinstance(tree.value, dict) else {}
    source = tree.source if tree else Source(str(settings))
    found = {"model": whole["model"]} if "model" in whole else {}
    data = whole["data"].value if "data" in whole else None
    if tokenizer and isinstance(data, dict) and "tokenizer" in data:
        found["data"] = Node({"tokenizer": data["tokenizer"]}, whole["data"].source)
    return Node(found, source)


def refuse_other_model(config: RunConfig, base: Base, *, trust_code: bool) -> None:
    """Make sure that the weights and the tokenizer of ``base`` mean the same under ``config``.

    Raises:
        ConfigError: they would not, or would not fit.
    """
    before = base.model(trust_code=trust_code)
    old, new = dict(flat(before.to_dict())), dict(flat(config.model.to_dict()))
    differ = [key for key in dict.fromkeys([*new, *old]) if old.get(key) != new.get(key)]
    fixed = [key for key in differ if not any(fnmatchcase(key, free) for free in FREE)]
    if fixed:
        # where a part is another, its own settings differ as well, and the part says it all
        key = next((key for key in fixed if key.endswith(".type")), fixed[0])
        raise ConfigError(
            f"model.{key} is {new.get(key)!r}, and in {base.path} it is {old.get(key)!r}: weights of one model mean "
            f"nothing in another; leave model.{key} out, or train from scratch without init_from"
        )
    if differ:
        _refuse_other_shapes(config.model, before, base, differ[0])
    _refuse_other_tokenizer(config, base)


def _refuse_other_shapes(new: ModelConfig, old: ModelConfig, base: Base, key: str) -> None:
    here, there = _shapes(new), _shapes(old)
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name):
            values = dict(flat(new.to_dict())).get(key), dict(flat(old.to_dict())).get(key)
            raise ConfigError(
                f"model.{key} is {values[0]!r}, and in {base.path} it is {values[1]!r}: {name} would be "
                f"{here.get(name, 'absent')} and is {there.get(name, 'absent')} there; leave model.{key} out, or train "
                "from scratch without init_from"
            )


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in meta_model(config).state_dict().items()}


def _refuse_other_tokenizer(config: RunConfig, base: Base) -> None:
    saved = taken_from(base.settings).plain().get("data", {}).get("tokenizer")
    if config.data is None or saved is None:
        return
    given = config.data.tokenizer.to_dict()
    saved = {"type": saved} if isinstance(saved, str) else saved
    if any(given.get(key) != value for key, value in saved.items()) or given.get("type") != saved.get("type"):
        raise ConfigError(
            f"data.tokenizer is {given}, and {base.path} was trained with {saved}: what a model knows is in the tokens "
            "of its own tokenizer; leave data.tokenizer out, or train from scratch without init_from"
        )


def base_of(config: RunConfig) -> Saved | None:
    """Return the checkpoint that `init_from` stands for, checked whole; None where a run begins from nothing.

    Raises:
        CheckpointError: the base is not there, or is damaged.
    """
    return None if config.init_from is None else Base(config.init_from).found


def tokenizer(config: RunConfig, origin: Checkpoint | None) -> Tokenizer | None:
    """Return the tokenizer that new text must be read with, or None where the run may train one.

    ``origin`` is what the run begins with or goes on from: its base, or a checkpoint of its own, which has a copy.

    Raises:
        CheckpointError: it has no tokenizer.
    """
    if config.init_from is None or origin is None:
        return None
    folder = origin.folder / "tokenizer"
    if not folder.is_dir():
        raise CheckpointError(
            f"init_from: {folder.parent} has no tokenizer, and without it no text can become the tokens that its model "
            "knows; name a run that was trained on text"
        )
    named_by_settings = config.data is not None and ":" in config.data.tokenizer.type
    return load_tokenizer(folder, trust_code=named_by_settings)


def build_model(config: RunConfig, device: torch.device, base: Saved | None) -> GPT:
    """Return the model that training begins with: new, or with the weights of ``base``, and with adapters where asked.

    Raises:
        CheckpointError: the base does not fit.
        ConfigError: adapters cannot be had as `lora` says.
    """
    model = GPT(config.model).to(device)
    if base is not None:
        load_weights(model, base)
    if config.lora is not None:
        add_adapters(model, config.lora)
    return model


def load_weights(model: nn.Module, found: Saved) -> None:
    """Put the weights of a checkpoint into ``model``: averaged ones where it has them, adapters merged.

    Raises:
        CheckpointError: names or shapes are not those of ``model``.
    """
    with named("init_from"):
        found.restore_weights(model)
