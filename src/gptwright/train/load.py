"""A trained model, read back from its run or checkpoint."""

import warnings
from pathlib import Path
from typing import Any

import torch

from gptwright.errors import CheckpointError
from gptwright.model.gpt import GPT
from gptwright.tokenizer.load import load as load_tokenizer
from gptwright.train.checkpoint import MANIFEST, Checkpoint, latest, verify
from gptwright.train.run import CONFIG
from gptwright.train.settings import read_settings


def load(path: str | Path, *, trust_code: bool = False, device: Any = None) -> GPT:
    """Return the model of a run folder (its newest sound checkpoint) or of a ``step-N`` folder, in eval mode.

    ``model.tokenizer`` is the run's tokenizer and ``model.settings`` its `RunConfig`. ``trust_code`` says
    whether ``type: pkg.module:Class`` in the saved settings may import code. ``device`` is by default a
    CUDA device where there is one.

    A damaged newest checkpoint is passed over with a Python warning that names it.

    Raises:
        CheckpointError: there is nothing to load, or every checkpoint is damaged.
        ConfigError: the saved settings cannot be used, or name code that is not trusted.
    """
    found, damaged = find_checkpoint(path)
    for sentence in damaged:
        warnings.warn(f"{sentence}; using step {found.step} instead", stacklevel=2)
    config = read_settings(found.folder / CONFIG, trust_code=trust_code).config
    with torch.random.fork_rng():  # the weights drawn here are replaced at once
        model = GPT(config.model)
    found.restore_weights(model)
    model.settings, model.precision = config, found.precision()
    tokenizer = found.folder / "tokenizer"
    if tokenizer.is_dir():
        model.tokenizer = load_tokenizer(tokenizer, trust_code=trust_code)
    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def find_checkpoint(path: str | Path) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint that ``path``, a run or ``step-N`` folder, stands for, and what damaged ones it passed."""
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {folder}; give a run folder such as runs/demo, or one of its checkpoints"
        )
    if (folder / MANIFEST).exists():
        return verify(folder), []
    if not (folder / CONFIG).exists():
        raise CheckpointError(f"{folder} is not a run: it has no {CONFIG}; give the folder that train wrote")
    return latest(folder / "checkpoints")
