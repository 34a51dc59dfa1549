"""A trained model, read back from its run or checkpoint."""

from pathlib import Path
from typing import Any

import torch

from gptwright.errors import CheckpointError
from gptwright.model.gpt import GPT
from gptwright.model.quantized import shell
from gptwright.tokenizer.load import load as load_tokenizer
from gptwright.train.lora import write_adapters
from gptwright.train.run import CONFIG
from gptwright.train.saved import find_checkpoint, sound_checkpoint
from gptwright.train.settings import read_settings


def load(
    path: str | Path, *, trust_code: bool = False, device: Any = None, best: bool = False, averaged: bool = True
) -> GPT:
    """Return the model of a run (its newest sound checkpoint), or of a ``step-N`` or quantized folder, in eval mode.

    ``model.tokenizer`` is the run's tokenizer and ``model.settings`` its `RunConfig`. ``trust_code`` says
    whether ``type: pkg.module:Class`` in the saved settings may import code. ``device`` is by default a
    CUDA device where there is one. ``best`` takes the run's checkpoint of the lowest validation loss instead of the
    newest. ``averaged`` takes averaged weights where the run kept them. Adapters are merged: the model is a plain one.

    A damaged newest checkpoint is passed over with a Python warning that names it.

    Raises:
        CheckpointError: there is nothing to load, or every checkpoint is damaged.
        ConfigError: the saved settings cannot be used, or name code that is not trusted.
    """
    found = sound_checkpoint(path, best=best, averaged=averaged, quantized=True)
    file = found.folder / CONFIG
    config = read_settings(file, trust_code=trust_code, own=file).config
    with torch.random.fork_rng():  # the weights drawn here are replaced at once
        model = GPT(config.model)
    if found.bits is not None:
        model = shell(model, found.weights(), found.bits)
    found.restore_weights(model)
    model.settings, model.precision = config, found.precision()
    tokenizer = found.folder / "tokenizer"
    if tokenizer.is_dir():
        model.tokenizer = load_tokenizer(tokenizer, trust_code=trust_code)
    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def save_adapters(path: str | Path, folder: str | Path, *, best: bool = False, averaged: bool = True) -> None:
    """Write the adapters of a run trained with `lora:` to ``folder``, alone and as PEFT keeps them.

    `peft.PeftModel.from_pretrained(gw.load(base), folder)` then is the model again. See `load` for the rest.

    Raises:
        CheckpointError: there is nothing to load, or the run was trained without adapters.
        GptwrightError: it trained other parameters too, which adapters alone would lose.
    """
    found, _ = find_checkpoint(path, best=best, averaged=averaged)
    config = found.lora()
    if config is None:
        raise CheckpointError(
            f"{path} was trained without adapters, so there are none to save; train with lora: {{rank: 8}}"
        )
    base = read_settings(found.folder / CONFIG, trust_code=False, own=found.folder / CONFIG).config.init_from
    write_adapters(found.weights_as_trained(), config, Path(folder), base)
