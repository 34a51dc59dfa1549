"""Prepared data that is there already: what we want, something else, or a source in itself."""

import json
from pathlib import Path
from typing import Literal

from gptwright.data.config import DataConfig
from gptwright.data.contracts import TextTokenizer
from gptwright.data.index import INDEX, read_index
from gptwright.data.shards import Prepared
from gptwright.errors import DataError


def dtype_of(tokenizer: TextTokenizer) -> Literal["uint16", "uint32"]:
    """Return the type in which ids are stored."""
    return "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"


def already(target: Path, key: str) -> Prepared | None:
    """Open ``target`` if it is what we want; None if nothing is there.

    Raises:
        DataError: something else is there.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not (target / INDEX).exists():
        raise DataError(f"{target} exists and holds no prepared data: choose an empty or new folder for it")
    index = read_index(target)
    if index.key != key:
        raise DataError(
            f"{target} holds data prepared from '{index.source.get('source')}' with other settings or from a "
            "changed source: delete it or choose another folder"
        )
    return Prepared.open(target)


def is_prepared(source: str | Path) -> bool:
    """Say whether a source is a folder of prepared data, damaged or not."""
    try:
        found = json.loads((Path(source).expanduser() / INDEX).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"key", "dtype", "tokenizer"} <= found.keys()


def prepared_source(config: DataConfig, tokenizer: TextTokenizer | None, folder: str | Path | None) -> Prepared | None:
    """Open the folder of prepared data that ``data.source`` names, as it is; None where it names something else.

    Raises:
        DataError: it is damaged, its ids are not those of ``tokenizer``, or it was to be prepared into ``folder``.
    """
    if config.source is None or not is_prepared(config.source):
        return None
    found = Prepared.open(Path(config.source).expanduser())
    if folder is not None and Path(folder).expanduser().resolve() != found.folder.resolve():
        raise DataError(f"data.source '{config.source}' is prepared already: use it there, or copy it to {folder}")
    if tokenizer is not None and tokenizer.fingerprint != found.index.tokenizer.fingerprint:
        raise DataError(
            f"data.source '{config.source}' was prepared with another tokenizer (fingerprint "
            f"{found.index.tokenizer.fingerprint[:12]}) than the model's ({tokenizer.fingerprint[:12]}), and its ids "
            "would mean something else: prepare the text anew with the model's"
        )
    return found
