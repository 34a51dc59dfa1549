"""Any model of ours as a folder that transformers loads by itself, with the code of the model beside its weights.

``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`` needs no gptwright. Tensors keep our names and
their bits.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptwright.errors import ConfigError, Unsupported
from gptwright.interop.trained import Trained
from gptwright.model.config import ModelConfig
from gptwright.tokenizer.base import Tokenizer
from gptwright.train.checkpoint import save_tensors

REMOTE = Path(__file__).parent / "remote"
OWN = "gptwright"
"""Our own `model_type`, and the key of its config.json that has our settings as they are."""
CODE = ("configuration_gptwright.py", "modeling_gptwright.py")
"""What an exported folder holds of code."""
AUTO_MAP = {
    "AutoConfig": "configuration_gptwright.GPTWrightConfig",
    "AutoModelForCausalLM": "modeling_gptwright.GPTWrightForCausalLM",
}
"""Where transformers finds the classes."""
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def write_remote(trained: Trained, folder: str | Path, *, max_shard_size: int | str = "5GB") -> None:
    """Write ``trained`` to ``folder``: weights, `config.json`, `generation_config.json` and the code of the model.

    The tokenizer is not written. ``max_shard_size`` is in bytes, or a number with a unit (`"500MB"`).

    Raises:
        Unsupported: the model has parts of the user's own.
        ConfigError: ``max_shard_size`` is no size.
    """
    refuse_own_parts(trained.config)
    limit = shard_bytes(max_shard_size)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    special = special_ids(trained.tokenizer)
    _write_json(folder / "config.json", remote_config(trained.config, special, trained.tensors))
    _write_json(folder / "generation_config.json", {"_from_model_config": False, **special})
    write_code(folder)
    write_weights(trained.tensors, folder, limit)


def write_code(folder: Path) -> None:
    """Copy the files that define the model."""
    for name in CODE:
        shutil.copyfile(REMOTE / name, folder / name)


def remote_config(config: ModelConfig, special: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what `config.json` holds."""
    heads = {config.layer(index)[0].n_heads for index in range(config.n_layers)}
    return {
        "architectures": ["GPTWrightForCausalLM"],
        "auto_map": AUTO_MAP,
        "model_type": OWN,
        "dtype": usual_dtype(tensors),
        "vocab_size": config.require_vocab_size(),
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": max(heads),
        "max_position_embeddings": config.max_seq_len,
        "tie_word_embeddings": config.tie_embeddings,
        **special,
        OWN: config.to_dict(),
    }


def special_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the ids that begin, end and fill up texts, in the words of transformers."""
    if tokenizer is None:
        return {}
    found: dict[str, Any] = {}
    if tokenizer.prefix_ids:
        found["bos_token_id"] = tokenizer.prefix_ids[0]
    if ends := list(tokenizer.end_ids):
        found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
        found["pad_token_id"] = ends[0]
    return found


def refuse_own_parts(config: ModelConfig) -> None:
    """Make sure that all parts are ours.

    Raises:
        Unsupported: code of the user's own would have to travel along.
    """
    for where, name in _own_parts(config.to_dict()):
        raise Unsupported(
            f"model.{where} is '{name}', code of your own, and an exported folder brings the code of gptwright's parts "
            f"alone; use one of those there, or export without it and write it into {CODE[1]} of the folder yourself"
        )


def write_weights(tensors: Mapping[str, Tensor], folder: Path, limit: int) -> None:
    """Write `model.safetensors`, or several files with an index where one would have more than ``limit`` bytes."""
    shards = list(_shards(tensors, limit))
    if len(shards) == 1:
        _save(tensors, shards[0], folder / "model.safetensors")
        return
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for file, names in zip(files, shards, strict=True):
        _save(tensors, names, folder / file)
    where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    size = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where})


def shard_bytes(size: int | str) -> int:
    """Return a size such as 5000, `"5GB"` or `"500MiB"` in bytes.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]I?B)?", str(size).strip().upper())
    count = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
    if count < 1:
        raise ConfigError(f"max_shard_size is {size!r}, and must be a size above 0 such as 5GB or 500MB; give one")
    return count


def _shards(tensors: Mapping[str, Tensor], limit: int) -> Iterator[list[str]]:
    """Yield names of tensors that together have at most ``limit`` bytes, or of one that has more by itself."""
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if names and size + tensor.nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.nbytes
    yield names


def _save(tensors: Mapping[str, Tensor], names: list[str], path: Path) -> None:
    found = {name: tensors[name].detach().cpu().contiguous() for name in names}
    save_tensors(found, path)


def usual_dtype(tensors: Mapping[str, Tensor]) -> str:
    """Return the type of number that most weights have, in torch's words."""
    counted: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            counted[tensor.dtype] += tensor.numel()
    return str(counted.most_common(1)[0][0]).removeprefix("torch.")


def _own_parts(settings: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield the place and the name of each part that is not ours."""
    if isinstance(settings, Mapping):
        name = settings.get("type")
        if isinstance(name, str) and ":" in name:
            yield where, name
        for key, value in settings.items():
            yield from _own_parts(value, f"{where}.{key}" if where else key)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
