"""Export: a trained model as a Hugging Face folder, of a class that `transformers` has where the parts match one.

Other models travel with their own code (`remote_export`). Either way the folder has the tokenizer, a model card with
what was measured, and in `gptwright/` the settings of the training, so that an import gives the same run back.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gptwright.config.yaml import dump
from gptwright.errors import CheckpointError, ConfigError, GptwrightError
from gptwright.interop.card import card
from gptwright.interop.family import Family, known_families
from gptwright.interop.plain import plain
from gptwright.interop.remote_export import (
    OWN,
    shard_bytes,
    special_ids,
    usual_dtype,
    write_remote,
    write_weights,
)
from gptwright.interop.tokenizer_files import hf_files
from gptwright.interop.trained import Trained
from gptwright.interop.words import HARMLESS
from gptwright.model.config import ModelConfig
from gptwright.train.run import CONFIG

OURS = "gptwright"
"""The folder within an export that has our settings and tokenizer as they are."""
STATE = "state.json"
"""In it: what was measured, and what the model computes in."""
_NOT_KEPT = {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "vocab_size"}
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_MOST = 3  # families whose misfits are told


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    folder: Path
    """The folder."""
    model_type: str
    """The class of models that it is now."""
    architecture: str
    """The class of `transformers` that loads it."""
    tensors: int
    """Tensors written."""
    dtype: str
    """Their type of number."""
    needs_code: bool
    """Whether loading it takes `trust_remote_code=True`."""
    why: tuple[str, ...] = ()
    """Why no class of `transformers` fits: what would have to change, for the nearest ones."""

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {**vars(self), "folder": str(self.folder), "why": list(self.why)}


def export_hf(
    trained: Trained, folder: str | Path, *, family: str | None = None, max_shard_size: int | str = "5GB"
) -> Exported:
    """Write ``trained`` to ``folder``, which must not exist or be empty.

    Args:
        trained: the model.
        folder: where to.
        family: the `model_type` that it has to be, or `gptwright` for our own class; by default the one that it was
            imported from, else the first that fits, else ours.
        max_shard_size: weights are written in files of at most this size, in bytes or as in `"500MB"`.

    Raises:
        Unsupported: it cannot be what ``family`` asks for; what would have to change is listed.
        CheckpointError: the folder is in use or cannot be written; nothing half-written remains.
    """
    limit = shard_bytes(max_shard_size)
    chosen, why = choose_family(trained, family)
    with written_whole(folder) as place:
        if chosen is None:
            write_remote(trained, place, max_shard_size=limit)
        else:
            _write_native(trained, chosen, place, limit)
        _write_beside(trained, chosen, place)
    model_type, architecture = (chosen.MODEL_TYPE, chosen.ARCHITECTURE) if chosen else (OWN, "GPTWrightForCausalLM")
    kind = usual_dtype(trained.tensors)
    return Exported(Path(folder), model_type, architecture, len(trained.tensors), kind, chosen is None, why)


def choose_family(trained: Trained, wanted: str | None = None) -> tuple[Family | None, tuple[str, ...]]:
    """Return the family that ``trained`` can be, None for our own class, and what keeps it from the nearest ones.

    Raises:
        ConfigError: there is no such family.
        Unsupported: it cannot be the one that is ``wanted``.
    """
    families = known_families()
    if wanted == OWN:
        return None, ()
    if wanted is not None:
        if wanted not in families:
            raise ConfigError(f"there is no family '{wanted}' to export to; choose one of {', '.join(families)}, {OWN}")
        families[wanted].write(trained.config)
        return families[wanted], ()
    origin = families.get(str(trained.origin.get("family")))
    misfits: dict[str, list[str]] = {}
    for family in [*([origin] if origin else []), *families.values()]:
        found = misfits[family.MODEL_TYPE] = family.misfits(trained.config)
        if not found and family is not origin and family.OWN_TOKENIZER and trained.tokenizer is not None:
            found.append("transformers reads every tokenizer of this class as the class's own, and it is another")
        if not found:
            return family, ()
    nearest = sorted(misfits, key=lambda name: sum(5 if ".type is " in said else 1 for said in misfits[name]))[:_MOST]
    return None, tuple(f"{name}: {'; '.join(misfits[name])}" for name in nearest)


def tensors_of(trained: Trained, family: Family) -> dict[str, Tensor]:
    """Return the tensors of ``trained`` under the names of ``family``."""
    return {rule.theirs: rule.outward(trained.tensors) for rule in family.rules(trained.config)}


def _write_native(trained: Trained, family: Family, folder: Path, limit: int) -> None:
    words = words_of(trained, family)
    _write_json(folder / "config.json", dict(sorted(words.items())))
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **{key: words[key] for key in _IDS}})
    write_weights(tensors_of(trained, family), folder, limit)


def words_of(trained: Trained, family: Family) -> dict[str, Any]:
    """Return the config.json: as it was before an import where that still describes the model, else in new words."""
    config = trained.config
    given = trained.origin.get("words", {}) if trained.origin.get("family") == family.MODEL_TYPE else {}
    kept = {key: value for key, value in given.items() if key not in _NOT_KEPT}
    said = family.write(config)
    whole = {**kept, "vocab_size": config.vocab_size}
    if not given or not _reads_as(family, whole, config):
        kept = {key: value for key, value in kept.items() if key in HARMLESS}
        whole = {**kept, **said}
    ids = {key: kept[key] for key in _IDS if kept.get(key) is not None}
    ids = {**dict.fromkeys(_IDS), **special_ids(trained.tokenizer), **ids}  # null, or transformers takes its own
    bookkeeping = {key: said[key] for key in ("architectures", "model_type")}
    return {**whole, **bookkeeping, **ids, "dtype": usual_dtype(trained.tensors)}


def _reads_as(family: Family, words: Mapping[str, Any], config: ModelConfig) -> bool:
    try:
        return plain(family.read(words)[0]) == plain(config)
    except GptwrightError:
        return False


def _write_beside(trained: Trained, family: Family | None, folder: Path) -> None:
    """Write what stands beside the weights: tokenizer, card, and our own settings."""
    ours = folder / OURS
    ours.mkdir()
    if trained.settings is not None:
        (ours / CONFIG).write_text(dump(trained.settings.to_dict()), "utf-8")
    if trained.precision:
        _write_json(ours / STATE, {"step": trained.step, "precision": trained.precision, "metrics": trained.metrics})
    if trained.tokenizer is not None:
        trained.tokenizer.save(ours / "tokenizer")
        for name, content in hf_files(trained.tokenizer, template=_template(trained)).items():
            (folder / name).write_bytes(content)
    (folder / "README.md").write_text(card(trained, family), "utf-8")


def _template(trained: Trained) -> str | None:
    """Return how chats are written, where that is what the model was trained on."""
    data = trained.settings.data if trained.settings is not None else None
    return data.template if data is not None and data.format == "chat" else None


@contextmanager
def written_whole(folder: str | Path) -> Iterator[Path]:
    """Yield a folder beside ``folder``, which takes its name when all has been written, or leaves no trace.

    Raises:
        CheckpointError: ``folder`` is in use, or cannot be written.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists already and is not empty; choose another folder, or delete it")
    place = folder.absolute().with_name(f".{folder.absolute().name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        yield place
        if folder.exists():
            folder.rmdir()
        place.rename(folder.absolute())
    except OSError as error:
        raise CheckpointError(
            f"{folder} could not be written: {error.strerror or error}; free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
