"""What is done to models: beginning weights, freezing, checkpoints, devices, inference.

Shapes: B batch, T tokens, V vocabulary.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor

from gptwright.dropin.slm.gpt import GPT
from gptwright.dropin.translate import device_named
from gptwright.errors import CheckpointError
from gptwright.model import freeze as freezing
from gptwright.model.evaluating import evaluating
from gptwright.model.reinit import reinitialise


def init_weights(model: GPT, strategy: str = "normal", **settings: Any) -> None:
    """Let the model begin anew: `normal`, `xavier_uniform`, `xavier_normal` or any other strategy of `model.init`.

    ``settings`` are the further ones of `model.init`: ``std``, ``overrides`` by name.
    """
    reinitialise(model, {"strategy": strategy, **settings})


def freeze(model: GPT, *patterns: str) -> freezing.TrainableTable:
    """Keep the parameters that ``patterns`` name (default all) from training; print what comes back to see which."""
    return freezing.freeze(model, *(patterns or ("*",)))


def unfreeze(model: GPT, *patterns: str) -> freezing.TrainableTable:
    """Let the parameters that ``patterns`` name (default all) train again."""
    return freezing.unfreeze(model, *(patterns or ("*",)))


def save_checkpoint(model: GPT, path: str | Path) -> None:
    """Write weights and settings to a safetensors file, which is there whole or not at all."""
    partial = Path(f"{path}.partial-{os.getpid()}")
    try:
        save_model(model, str(partial), metadata={"format": "pt", "config": json.dumps(model.words.to_dict())})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"checkpoint {path} could not be written: {error}; choose another place") from None


def load_checkpoint(path: str | Path, model: GPT | None = None, device: str = "cpu") -> GPT:
    """Return the model of a file that `save_checkpoint` wrote, or put its weights into ``model``; nothing is unpickled.

    Raises:
        CheckpointError: there is no such file, it is damaged, or does not fit ``model``.
    """
    try:
        with safe_open(str(path), "pt") as file:
            words = json.loads((file.metadata() or {})["config"])
        model = model or GPT(words)
        _refuse_other_sizes(path, words, model.words.to_dict())
        load_model(model, path)
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be loaded: {error}; give a file that save_checkpoint wrote"
        ) from None
    return model.to(device_named(device))


def _refuse_other_sizes(path: str | Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    different = [
        f"{word} {there.get(word)} there and {here[word]} here" for word in here if there.get(word) != here[word]
    ]
    if different:
        raise CheckpointError(
            f"checkpoint {path} does not fit the model: {', '.join(different)}; load it without a model"
        )


def get_device(preferred: str | None = None) -> torch.device:
    """Return the ``preferred`` device, or else the accelerator of this machine, or else its CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device_named(preferred or found or "cpu")


@torch.inference_mode()
def next_token_probabilities(model: GPT, input_ids: Tensor) -> Tensor:
    """Return the probabilities (B, V) of the token after ``input_ids`` (B, T), without dropout."""
    with evaluating(model):
        return model(input_ids)[:, -1].softmax(-1)
