"""Export of a run or a model: to a Hugging Face folder, to the hub, or to GGUF."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from gptwright import hub
from gptwright.errors import ConfigError
from gptwright.interop.gguf.write import write_gguf
from gptwright.interop.hf_export import export_hf
from gptwright.interop.trained import Trained
from gptwright.model.gpt import GPT

Target = Literal["hf", "gguf"]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
"""Types of number that weights may be written in."""


def export(
    model: GPT | str | Path,
    folder: str | Path,
    *,
    to: Target = "hf",
    dtype: str | None = None,
    family: str | None = None,
    max_shard_size: int | str = "5GB",
    best: bool = False,
    averaged: bool = True,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Write a model for others to use, and return facts about what was written.

    Args:
        model: a run, a ``step-N`` folder, or a model in memory.
        folder: where to. For ``gguf`` a folder, in which the file is named after the model and its type of number, or
            a file that ends in `.gguf`.
        to: ``hf`` for `transformers`, ``gguf`` for llama.cpp.
        dtype: type of number of the weights: f32, f16, bf16, and for ``gguf`` q8_0. Default as they are stored, for
            ``gguf`` f16.
        family: for ``hf``, the `model_type` that it must become, or `gptwright` for our own class.
        max_shard_size: for ``hf``, the most bytes of one file of weights, as in `"500MB"`.
        best: of a run, the checkpoint of the lowest validation loss instead of the newest.
        averaged: of a run, averaged weights where it has them.
        trust_code: whether the run's settings may import code.

    Raises:
        Unsupported: the target has no words for a part; what would have to change is listed.
        CheckpointError: there is nothing to export, or the folder is in use or cannot be written.
    """
    if to not in ("hf", "gguf"):
        raise ConfigError(f"to is '{to}', and models are exported to hf or gguf; choose one")
    if isinstance(model, GPT):
        trained = Trained.of_model(model)
    else:
        trained = Trained.of_run(model, best=best, averaged=averaged, trust_code=trust_code)
    if to == "gguf":
        if family is not None:
            raise ConfigError(f"family {family} was asked for, which means nothing for gguf; leave it out")
        name, dtype = _name(model), dtype or "f16"
        file = _gguf_file(folder, name, dtype)
        return write_gguf(trained, file, dtype=dtype, name=name)  # pyright: ignore[reportArgumentType] - checked there
    return export_hf(in_dtype(trained, dtype), folder, family=family, max_shard_size=max_shard_size).to_dict()


def push_to_hub(
    model: GPT | str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    **options: Any,
) -> str:
    """Export a model and send it to the hub as ``repo_id`` (owner/name); return its address.

    ``options`` are those of `export`. See `gptwright.hub.push_to_hub` for the rest, and the errors.
    """
    with TemporaryDirectory() as place:
        export(model, Path(place) / "model", to="hf", **options)
        return hub.push_to_hub(
            Path(place) / "model",
            repo_id,
            private=private,
            revision=revision,
            commit_message=commit_message,
            token=token,
        )


def in_dtype(trained: Trained, dtype: str | None) -> Trained:
    """Return ``trained`` with weights in another type of number.

    Raises:
        ConfigError: there is no such type.
    """
    if dtype is None:
        return trained
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is '{dtype}', and weights for hf are written as {', '.join(DTYPES)}; choose one")
    wanted = DTYPES[dtype]
    tensors = {name: x.to(wanted) if x.is_floating_point() else x for name, x in trained.tensors.items()}
    return replace(trained, tensors=tensors)


def _name(model: GPT | str | Path) -> str:
    if isinstance(model, GPT):
        return "model"
    path = Path(model).expanduser().resolve()
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.name


def _gguf_file(folder: str | Path, name: str, dtype: str) -> Path:
    path = Path(folder).expanduser()
    return path if path.suffix == ".gguf" else path / f"{name}-{dtype}.gguf"
