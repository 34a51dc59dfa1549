"""A trained model as it travels: settings, tensors under our names, tokenizer, and what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from gptwright.model.config import ModelConfig
from gptwright.model.gpt import GPT
from gptwright.tokenizer.base import Tokenizer
from gptwright.tokenizer.load import load as load_tokenizer
from gptwright.train.config import RunConfig
from gptwright.train.contents import unshared
from gptwright.train.run import CONFIG, RunFolder
from gptwright.train.saved import sound_checkpoint
from gptwright.train.settings import read_settings

ORIGIN = "imported"
"""The key of a checkpoint's `state.json` under which an import says where its weights came from."""


@dataclass(frozen=True)
class Trained:
    """Everything about a trained model that others can use."""

    config: ModelConfig
    """Its settings, with `vocab_size`."""
    tensors: Mapping[str, Tensor]
    """Parameters and buffers by our names, as they are stored; a tied head is not among them."""
    tokenizer: Tokenizer | None = None
    """What its ids mean."""
    settings: RunConfig | None = None
    """How it was trained."""
    step: int = 0
    """Optimizer steps behind it."""
    precision: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained in: `name` and `float32_matmul`, as a checkpoint's `state.json` has them."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The last validation of its run at this step or before: `val_loss`, `val_bits_per_byte`, `tokens` ..."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Where an imported model came from: its `family`, `source`, and the `words` of its settings as they were."""

    @classmethod
    def of_run(cls, path: str | Path, *, best: bool = False, averaged: bool = True, trust_code: bool = False) -> Self:
        """Return what a run (its newest sound checkpoint) or a ``step-N`` folder holds; see `gptwright.load`.

        A damaged newest checkpoint is passed over with a Python warning that names it.

        Raises:
            CheckpointError: there is nothing, or every checkpoint is damaged.
            ConfigError: the saved settings cannot be used, or name code that is not trusted.
        """
        found = sound_checkpoint(path, best=best, averaged=averaged)
        file = found.folder / CONFIG
        settings = read_settings(file, trust_code=trust_code, own=file).config
        tokenizer = found.folder / "tokenizer"
        return cls(
            settings.model,
            found.weights(),
            load_tokenizer(tokenizer, trust_code=trust_code) if tokenizer.is_dir() else None,
            settings,
            found.step,
            found.state()["precision"],
            _last_validation(found.folder.parent.parent, found.step),
            found.state().get(ORIGIN, {}),
        )

    @classmethod
    def of_model(cls, model: GPT) -> Self:
        """Return what ``model`` holds now; its tensors are shared, not copied."""
        tensors = {name: tensor.detach() for name, tensor in unshared(model)}
        return cls(model.config, tensors, model.tokenizer, model.settings)


def _last_validation(run: Path, step: int) -> dict[str, Any]:
    """Return the last line of the metrics up to ``step`` that has a validation loss."""
    found: dict[str, Any] = {}
    for row in RunFolder(run).metrics():
        if "val_loss" in row and row.get("step", 0) <= step:
            found = row
    return found
