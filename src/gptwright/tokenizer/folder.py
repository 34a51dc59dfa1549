"""The files of a tokenizer as Hugging Face keeps them, read from a folder that nobody vouches for.

Only files of known names are read, as data, and none that lies outside the folder; nothing in them is run.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptwright.errors import CheckpointError, DataError
from gptwright.hub import fetch

LIBRARY, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
NAMES = (
    LIBRARY,
    SETTINGS,
    TEMPLATE,
    VOCABULARY,
    MERGES,
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
)
"""The files that say something about a tokenizer."""

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that have a name of their own."""

_MOST = 1 << 28  # bytes of a file; the largest tokenizers in use have some 35 MB
_OTHERS = ("*.model", "*.tiktoken", "tekken.json")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def find(source: str) -> Path:
    """Return the folder or tokenizer.json that ``source`` names: a path, or else a repository of the hub, fetched.

    Raises:
        DataError: there is none, or it cannot be fetched.
    """
    path = Path(source).expanduser()
    if os.path.exists(path):  # not the method: a name longer than the system allows is no file, and no error
        return path
    if not _HUB.fullmatch(source):
        raise DataError(
            f"there is no tokenizer folder {source} (current directory {Path.cwd()}): give a folder, a tokenizer.json, "
            "or owner/name of the Hugging Face hub"
        )
    try:
        return fetch(source, patterns=NAMES)
    except CheckpointError as error:
        raise DataError(f"there is no folder {source}, and as a name on the hub: {error}") from error


def read(place: Path) -> dict[str, bytes]:
    """Return the files of the tokenizer in the folder ``place``, or beside the tokenizer.json of that name.

    Raises:
        DataError: there is none, it is of a kind that has to be converted first, or a file lies outside the folder.
    """
    if place.is_file() and place.suffix != ".json":
        raise DataError(f"{place} is no tokenizer.json: {_convert()}")
    folder, main = (place.parent, place.name) if place.is_file() else (place, LIBRARY)
    files = {
        name: content(folder, name) for name in {*NAMES, main} if (folder / name).is_symlink() or _is(folder, name)
    }
    found = dict(files)
    if main != LIBRARY:
        found[LIBRARY] = found.pop(main)
    if LIBRARY not in found and not {VOCABULARY, MERGES} <= found.keys():
        raise _nothing(folder, found)
    return found


def _is(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except OSError as error:
        raise DataError(f"no tokenizer can be read from {folder}: {error.strerror}") from None


def content(folder: Path, name: str) -> bytes:
    """Return the file ``name`` of ``folder``.

    Raises:
        DataError: it lies outside the folder, is too large to be a tokenizer's, or cannot be read.
    """
    path = folder / name
    try:
        inside = _root(folder)
        real = path.resolve(strict=True)
        if not real.is_relative_to(inside):
            raise DataError(
                f"{path} is a link to {real}, outside of {inside}: a tokenizer's files must lie in its folder; copy it "
                "there"
            )
        if not real.is_file():
            raise DataError(f"{path} is no file, and a tokenizer's files must be: put the file itself there")
        if (size := real.stat().st_size) > _MOST:
            raise DataError(f"{path} has {size:,} bytes, and no tokenizer's file has more than {_MOST:,}: give another")
        return real.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _root(folder: Path) -> Path:
    """Return the folder that files may lie in; in the hub's cache they are links to its own store."""
    folder = folder.resolve()
    repository = folder.parent.parent
    return repository if folder.parent.name == "snapshots" and (repository / "blobs").is_dir() else folder


def _nothing(folder: Path, found: Mapping[str, bytes]) -> DataError:
    elsewhere = settings(found).get("tokenizer_file")
    if isinstance(elsewhere, str) and elsewhere:
        return DataError(
            f"{folder / SETTINGS} says that the tokenizer is in {elsewhere!r:.120}, and only {LIBRARY} in the folder "
            "itself is read: copy it there"
        )
    if not folder.is_dir():
        return DataError(f"no tokenizer can be read from {folder}: there is no such folder")
    other = next((file.name for pattern in _OTHERS for file in sorted(folder.glob(pattern))), None)
    if other is not None:
        return DataError(f"{folder} holds {other} and no {LIBRARY}: {_convert()}")
    return DataError(f"{folder} holds no tokenizer: neither {LIBRARY} nor {VOCABULARY} with {MERGES} is there")


def _convert() -> str:
    return (
        "convert it first, in Python: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(OUT), and "
        "give OUT"
    )


def settings(files: Mapping[str, bytes], name: str = SETTINGS) -> dict[str, Any]:
    """Return the JSON object in the file ``name``, empty where there is no such file.

    Raises:
        DataError: it is no JSON object.
    """
    if name not in files:
        return {}
    try:
        found = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is no readable JSON ({error!s:.120}): save the tokenizer again") from None
    if not isinstance(found, dict):
        raise DataError(
            f"{name} holds a JSON {type(found).__name__}, and it must hold an object: save the tokenizer again"
        )
    return found


def named_tokens(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the named special tokens: of tokenizer_config.json, else of special_tokens_map.json."""
    found = {}
    for each in (settings(files, "special_tokens_map.json"), settings(files)):
        found |= {name: text for name in NAMED if (text := _words(each.get(name)))}
    return {name: found[name] for name in NAMED if name in found}


def other_tokens(files: Mapping[str, bytes]) -> list[tuple[str, dict[str, bool]]]:
    """Return the further tokens that the settings add, with their flags, in the order of their ids."""
    given = settings(files)
    added = given.get("added_tokens_decoder")
    found = [(str(each.get("content") or ""), _flags(each)) for _, each in _by_number(added)]
    older = settings(files, "added_tokens.json")
    names = {text: id for text, id in older.items() if isinstance(id, int)}
    found += [(text, {"normalized": True}) for text in sorted(names, key=lambda text: names[text])]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = given.get(key)
        values = list(more.values()) if isinstance(more, dict) else more if isinstance(more, list) else []
        found += [(text, {"special": True, "normalized": False}) for each in values if (text := _words(each))]
    return [(text, flags) for text, flags in found if text]


def _by_number(added: Any) -> list[tuple[int, dict[str, Any]]]:
    if not isinstance(added, dict):
        return []
    found = [(int(id), each) for id, each in added.items() if str(id).isdecimal() and isinstance(each, dict)]
    return sorted(found, key=lambda pair: pair[0])


def _flags(given: Mapping[str, Any]) -> dict[str, bool]:
    names = ("special", "normalized", "lstrip", "rstrip", "single_word")
    return {name: bool(given[name]) for name in names if name in given}


def _words(value: Any) -> str | None:
    """Return the text of a token, which is written as text or as an object with its content."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def end_ids(files: Mapping[str, bytes]) -> list[int]:
    """Return the ids on which a model's own settings stop; those of generation come before those of the model."""
    for name in ("generation_config.json", "config.json"):
        found = settings(files, name).get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if ids := [id for id in ids if isinstance(id, int) and not isinstance(id, bool)]:
            return ids
    return []


def chat_template(files: Mapping[str, bytes]) -> str | None:
    """Return the chat template: the file of its own, or what the settings say, of several the default one."""
    if TEMPLATE in files:
        return files[TEMPLATE].decode("utf-8", errors="replace")
    found = settings(files).get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    return found if isinstance(found, str) and found else None
