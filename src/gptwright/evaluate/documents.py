"""The documents of a split as text, the same for models of any tokenizer."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptwright.data.config import DataConfig
from gptwright.data.contracts import SplitName
from gptwright.data.source import open_sources
from gptwright.data.split import split as divide
from gptwright.errors import ConfigError, DataError
from gptwright.evaluate.likelihood import replaced
from gptwright.model.gpt import GPT

_DECIDING = ("source", "mixture", "format", "text_field", "hf_split", "val_fraction", "dedup")
"""Settings of the data that decide which documents validate."""


def documents_of(model: GPT, data: dict[str, Any] | None = None, split: SplitName = "val") -> list[str]:
    """Return the documents of a split of the data that ``model`` was trained on, or of other ``data``, as text.

    Which documents validate is decided by their text, so it is the same for every model that was trained on this
    data with the same `data.val_fraction`, whatever its tokenizer.

    Args:
        model: a model that `gptwright.load` returned.
        data: settings of other data, for example ``{"source": "other.jsonl"}``.
        split: ``val``, or ``train``.

    Raises:
        ConfigError: there is no run behind the model, and so no data.
        DataError: the source cannot be read, has no such documents, or is made of examples instead of text.
    """
    settings = model.settings
    own = None if settings is None else getattr(settings, "data", None)
    if own is None and data is None:
        raise ConfigError("this model has no run behind it, and so no data; say what to score it on (data or text)")
    config = DataConfig.from_dict(replaced({} if own is None else own.to_dict(), data or {}))
    if config.format != "text":
        raise DataError(
            f"data.format is {config.format}, and documents are compared as plain text; give text files, or set "
            "data.format=text with the data.text_field to read"
        )
    with tempfile.TemporaryDirectory(prefix="gptwright-documents-") as folder:
        found = list(_texts(config, Path(folder), split))
    if not found:
        raise DataError(f"{config.described} has no document in its {split} split; give more text")
    return found


def other_data(first: GPT, second: GPT, names: tuple[str, str]) -> tuple[str, ...]:
    """Return what to know where ``second`` was trained on other data than ``first``: it may have learnt the documents.

    Nothing where both kept the same documents for validation.
    """
    configs = [getattr(model.settings, "data", None) for model in (first, second)]
    own, other = ({} if config is None else config.to_dict() for config in configs)
    if all(own.get(key) == other.get(key) for key in _DECIDING):
        return ()
    return (
        f"{names[1]} was trained on other data than {names[0]}, whose validation documents these are: whether it has "
        "learnt from them is not known",
    )


def _texts(config: DataConfig, folder: Path, split: SplitName) -> Iterator[str]:
    for part in divide(open_sources(config), folder, config.val_fraction, dedup=config.dedup):
        held: list[str] = []
        for side, piece in part.routed():
            if side != split:
                continue
            held.append(piece.text)
            if piece.last:
                yield "".join(held)
                held.clear()
