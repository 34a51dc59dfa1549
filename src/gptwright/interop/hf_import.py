"""Models of the Hugging Face world, read as ours: from a folder or the hub, with every tensor accounted for."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from gptwright.config.report import did_you_mean
from gptwright.errors import CheckpointError, ConfigError, Unsupported
from gptwright.interop.family import Family, known_families, shapes_of
from gptwright.interop.found import Found
from gptwright.interop.remote_export import OWN
from gptwright.interop.rules import Rule
from gptwright.interop.weights import FLOATS, Weights, read_object
from gptwright.model.config import ModelConfig


def read_folder(folder: Path, *, trust_code: bool = False) -> Found:
    """Return the model in a folder with `config.json` and safetensors.

    Raises:
        CheckpointError: files are missing, damaged or not what they should be; tensors are missing or too many.
        Unsupported: its architecture cannot be expressed; what is missing is listed.
    """
    given = read_object(folder / "config.json")
    kind = given.get("model_type")
    if kind == OWN:
        return _own(folder, given, trust_code=trust_code)
    family = _family(kind, given, folder)
    if given.get("quantization_config"):
        raise Unsupported(
            f"{folder} has quantized weights (quantization_config); import the model that it was made from"
        )
    weights = _floats(Weights(folder))
    _plausible(given, weights, folder)
    config, unknown = family.read(given)
    found = Found(config, family.MODEL_TYPE, given, unknown=unknown)
    _take(found, family, weights)
    return found


def _own(folder: Path, given: Mapping[str, Any], *, trust_code: bool) -> Found:
    """Return a model that we exported with its own modeling file; its settings and names are ours."""
    settings = given.get(OWN)
    if not isinstance(settings, Mapping):
        raise CheckpointError(
            f"{folder}/config.json says model_type {OWN} and has no settings under '{OWN}'; export again"
        )
    try:
        config = ModelConfig.from_dict(settings, trust_code=trust_code)
    except ConfigError as error:
        raise ConfigError(f"{folder}/config.json: {error}") from None
    weights = _floats(Weights(folder))
    rules = [Rule((name,), name, (shape,)) for name, shape in shapes_of(config).items()]
    found = Found(config, OWN, given)
    found.take(rules, weights, folder, surplus=("lm_head.weight",) if config.tie_embeddings else ())
    return found


def _family(kind: Any, given: Mapping[str, Any], folder: Path) -> Family:
    known = known_families()
    if isinstance(kind, str) and kind in known:
        return known[kind]
    if kind is None:
        raise CheckpointError(
            f"{folder}/config.json has no model_type and says no architecture; is it a language model?"
        )
    menu = ", ".join(sorted({*known, OWN}))
    code = "; it brings code of its own (auto_map), which an import never runs" if given.get("auto_map") else ""
    raise Unsupported(
        f"model_type {kind!r:.60} of {folder} is not among those that can be imported{did_you_mean(str(kind), known)} "
        f"({menu}){code}"
    )


def _floats(weights: Weights) -> Weights:
    others = sorted(weights.kinds - FLOATS)
    if others:
        raise Unsupported(
            f"{weights.folder} has tensors of {', '.join(others)}, and weights must be F32, F16, BF16 or F64: they are "
            "quantized; import the model that they were made from"
        )
    return weights


def _plausible(given: Mapping[str, Any], weights: Weights, folder: Path) -> None:
    """Refuse sizes that the files cannot have, before anything of that size is made."""
    for key in ("num_hidden_layers", "n_layer", "num_experts", "num_local_experts"):
        count = given.get(key)
        if isinstance(count, int) and count > len(weights):
            raise CheckpointError(
                f"{folder}/config.json says {key} is {count}, and its files hold {len(weights)} tensors in all; they "
                "do not belong together"
            )


def _present(weights: Iterable[str], base: str) -> dict[str, str]:
    """Return the names in the files by their full names: checkpoints without a head leave out the first word."""
    names = list(weights)
    if any(name.startswith(base) for name in names):
        return {name: name for name in names}
    return {f"{base}{name}": name for name in names} | {name: name for name in names if name.startswith("lm_head")}


def _take(found: Found, family: Family, weights: Weights) -> None:
    """Read all tensors by the family's rules."""
    present, table = _present(weights, family.BASE), family.table(found.config)
    head = f"{table['lm_head']}.weight"
    embedding = present.get(f"{table['token_embedding']}.weight")
    if embedding is not None:
        _keep_all_rows(found, weights, embedding)
        if found.config.tie_embeddings and head in present:
            _untie_if_different(found, weights, present[head], embedding)
    surplus = (*family.SURPLUS, *([head] if found.config.tie_embeddings else []))
    found.take(family.rules(found.config), weights, weights.folder, surplus=surplus, present=present)


def _keep_all_rows(found: Found, weights: Weights, embedding: str) -> None:
    """Give the model as many tokens as the embedding has rows: vocabularies are often padded."""
    rows = next(iter(weights.shape(embedding)), 0)
    if rows > found.config.require_vocab_size():
        found.notes.append(
            f"config.json says vocab_size {found.config.vocab_size}, and the embedding has {rows} rows: it is padded, "
            "and all rows are kept"
        )
        found.config = found.config.model_copy(update={"vocab_size": rows})


def _untie_if_different(found: Found, weights: Weights, head: str, embedding: str) -> None:
    """Believe the files where a head that should be the embedding is another matrix, as `transformers` does."""
    if not torch.equal(weights[head], weights[embedding]):
        found.config = found.config.model_copy(update={"tie_embeddings": False})
        found.notes.append(f"config.json ties the head to the embedding, but {head} is another matrix: they stay apart")
