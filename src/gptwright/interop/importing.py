"""Import: a model from elsewhere as one of ours, in memory or as a run folder that every verb understands."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from gptwright.config.yaml import dump
from gptwright.errors import CheckpointError, DataError, GptwrightError
from gptwright.interop.found import Found
from gptwright.interop.hf_export import OURS, STATE
from gptwright.interop.hf_import import read_folder
from gptwright.interop.pickled import read_pickled
from gptwright.interop.plain import plain
from gptwright.interop.remote_export import usual_dtype
from gptwright.interop.source import locate
from gptwright.interop.token_import import tokenizer_named
from gptwright.interop.trained import ORIGIN
from gptwright.interop.weights import read_object
from gptwright.model.gpt import GPT
from gptwright.ops.precision import DTYPES, choose
from gptwright.tokenizer.base import Tokenizer
from gptwright.tokenizer.kinds.pretrained import Pretrained
from gptwright.tokenizer.load import load as load_tokenizer
from gptwright.train.checkpoint import MANIFEST, save
from gptwright.train.config import RunConfig
from gptwright.train.contents import Contents
from gptwright.train.load import load
from gptwright.train.run import CONFIG, RunFolder, read_data

PICKLED = (".pt", ".pth", ".ckpt")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "kind.json")


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    folder: Path
    """The run folder."""
    found: Found
    """What was read, with the account of every tensor."""

    def to_dict(self) -> dict[str, Any]:
        """Return the account as plain data."""
        found = self.found
        return {
            "run": str(self.folder),
            "family": found.family,
            "params": found.config.num_params(),
            "dtype": usual_dtype(found.tensors),
            "tensors_used": found.used,
            "tensors_without_meaning": found.surplus,
            "settings_not_understood": found.unknown,
            "tokenizer": None if found.tokenizer is None else found.tokenizer.type_name(),
            "notes": found.notes,
            "model": found.config.to_dict(),
        }


def read(
    source: str | Path, *, revision: str | None = None, tokenizer: str | Path | None = None, trust_code: bool = False
) -> Found:
    """Return the model that ``source`` holds: a folder, a hub id, or a `ckpt.pt` of nanoGPT or llama2.c.

    Args:
        source: where it is.
        revision: a branch, tag or commit of the hub.
        tokenizer: a folder or file with its tokenizer, where that lies elsewhere; also nanoGPT's `meta.pkl`, or `byte`.
        trust_code: whether settings of a model that we exported may name code (`pkg.module:Class`).

    Raises:
        CheckpointError: there is nothing, or something is missing, damaged or too much; it is named.
        Unsupported: its architecture cannot be expressed; what is missing is listed.
    """
    place = locate(source, revision=revision)
    found = _read(place, trust_code=trust_code)
    beside = place if place.is_dir() else place.parent
    if tokenizer is not None:
        found.tokenizer = _tokenizer(found, tokenizer)
    elif not _take_ours(found, beside / OURS, trust_code=trust_code):
        _add_tokenizer(found, beside)
    return found


def _read(place: Path, *, trust_code: bool) -> Found:
    if place.is_file():
        if place.suffix in PICKLED:
            return read_pickled(place)
        raise CheckpointError(
            f"{place} is a file of a kind that is not imported; give a folder with config.json and safetensors, or a "
            "ckpt.pt of nanoGPT or llama2.c"
        )
    if (place / "config.json").is_file():
        return read_folder(place, trust_code=trust_code)
    pickles = sorted(file for file in place.iterdir() if file.suffix in PICKLED)
    if len(pickles) == 1:
        return read_pickled(pickles[0])
    held = ", ".join(sorted(file.name for file in place.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"{place} is not a model folder: it has no config.json and no single ckpt.pt (it holds {held}); give the "
        "folder that save_pretrained or a training script wrote"
    )


def _take_ours(found: Found, folder: Path, *, trust_code: bool) -> bool:
    """Take the settings and the tokenizer of an export of ours as they were; return whether there was a tokenizer."""
    settings, tokenizer = folder / CONFIG, folder / "tokenizer"
    if settings.is_file():
        try:
            run = RunConfig.from_dict({**read_data(settings), "init_from": None, "lora": None}, trust_code=trust_code)
        except GptwrightError as error:
            found.notes.append(f"the settings of its training were not taken over: {error}")
        else:
            if plain(run.model) == plain(found.config):
                found.config, found.settings, found.precision = run.model, run, _saved_precision(folder / STATE)
            else:
                found.notes.append(f"{settings} describes another model than config.json, and was not used")
    if not tokenizer.is_dir():
        return False
    try:
        found.tokenizer = load_tokenizer(tokenizer, trust_code=trust_code)
    except DataError as error:
        found.notes.append(f"{error}; the tokenizer.json beside it is used")
        return False
    return True


def _saved_precision(file: Path) -> str | None:
    """Return the precision that an export of ours was trained in, if it says one that there is."""
    if not file.is_file():
        return None
    found = read_object(file).get("precision")
    name = found.get("name") if isinstance(found, dict) else None
    return name if name in DTYPES else None


def _is_ours(place: Path) -> bool:
    return (place / CONFIG).is_file() or (place / MANIFEST).is_file()


def _add_tokenizer(found: Found, folder: Path) -> None:
    """Read the tokenizer of ``folder``, if there is one, and say why where it cannot be."""
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        found.notes.append("there is no tokenizer beside it, so it reads and writes ids alone; --tokenizer names one")
        return
    try:
        found.tokenizer = _tokenizer(found, folder)
    except DataError as error:
        found.notes.append(f"no tokenizer was imported: {error}")


def _tokenizer(found: Found, name: str | Path) -> Tokenizer:
    """Return the tokenizer that ``name`` stands for, with as many ids as the embedding has rows if these are more."""
    alone, rows = tokenizer_named(name), found.config.require_vocab_size()
    if alone.vocab_size < rows:
        found.notes.append(
            f"the vocabulary is padded: the tokenizer has {alone.vocab_size} ids, and the embedding {rows} rows"
        )
    if alone.vocab_size > rows:
        found.notes.append(
            f"the tokenizer has {alone.vocab_size} ids, and the embedding {rows} rows: text that needs the others is "
            "refused"
        )
    if not isinstance(alone, Pretrained):
        return alone
    ends = found.words.get("eos_token_id")
    end_ids = [one for one in (ends if isinstance(ends, list) else [ends]) if isinstance(one, int) and one >= 0]
    return alone.fitted(vocab_size=max(rows, alone.vocab_size), end_ids=end_ids)


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    trust_code: bool = False,
    device: Any = None,
) -> GPT:
    """Return a model of the Hugging Face world as ours, in eval mode, with its tokenizer: from a folder or the hub.

    It is an ordinary `GPT`: train it, generate with it, export it. Weights are held in fp32. ``source`` may also be a
    `ckpt.pt` of nanoGPT or llama2.c, or a run of ours. See `read` for the other arguments and the errors.
    """
    path = Path(source).expanduser()
    if _is_ours(path):
        return load(path, trust_code=trust_code, device=device)
    found = read(source, revision=revision, tokenizer=tokenizer, trust_code=trust_code)
    for sentence in found.notes:
        warnings.warn(sentence, stacklevel=2)
    with torch.random.fork_rng():  # the weights drawn here are replaced at once
        model = GPT(found.config)
    model.load_state_dict(found.tensors, strict=False)  # a tied head comes with the embedding
    model.tokenizer, model.settings = found.tokenizer, found.settings
    model.precision = choose(_precision(found), model.device)
    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def import_run(
    source: str | Path,
    out: str | Path,
    *,
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    trust_code: bool = False,
) -> Imported:
    """Write the model of ``source`` as a run folder ``out``, which `load`, `generate`, `eval` and `init_from` take.

    Tensors are kept in their type of number, bit for bit. See `read` for the arguments and the errors.
    """
    if _is_ours(Path(source).expanduser()):
        raise CheckpointError(f"{source} is a run of gptwright already; use it as it is, or gptwright export it")
    folder = RunFolder(Path(out).expanduser())
    if folder.folder.exists() and (not folder.folder.is_dir() or any(folder.folder.iterdir())):
        raise CheckpointError(f"{out} exists already and is not empty; choose another folder with --out, or delete it")
    found = read(source, revision=revision, tokenizer=tokenizer, trust_code=trust_code)
    config = found.settings or RunConfig(model=found.config)
    with folder.claimed(new=True), TemporaryDirectory() as place:
        folder.write_config(config)
        save(folder.checkpoints, 0, _contents(found, config, str(source), Path(place)))
    return Imported(folder.folder, found)


def _contents(found: Found, config: RunConfig, source: str, place: Path) -> Contents:
    """Return the checkpoint of an import: weights, tokenizer and settings, and where they came from."""
    if found.tokenizer is not None:
        found.tokenizer.save(place / "tokenizer")
    precision = choose(_precision(found), "cpu")
    state = {
        "step": 0,
        "precision": {"name": precision.name, "float32_matmul": precision.float32_matmul},
        ORIGIN: {"family": found.family, "source": source, "words": _plain_words(found)},
    }
    folders = (place / "tokenizer",) if found.tokenizer is not None else ()
    texts = {"state.json": json.dumps(state, indent=2), CONFIG: dump(config.to_dict())}
    return Contents({"model.safetensors": found.tensors}, texts, folders)


def _plain_words(found: Found) -> dict[str, Any]:
    """Return the words of the source as JSON can hold them."""
    return json.loads(json.dumps(dict(found.words), default=str))


def _precision(found: Found) -> str:
    """Return what the model computes in by itself: as it was trained, else bf16 where it is stored so, else fp32."""
    if found.precision is not None:
        return found.precision
    return "bf16" if usual_dtype(found.tensors) == "bfloat16" else "fp32"
