"""Saved tokenizers read back, and the maker that data preparation is given."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic_core import PydanticCustomError

from gptwright.config.slot import ComponentConfig, Slot
from gptwright.errors import ConfigError, DataError
from gptwright.tokenizer.base import KIND_FILE, Progress, Tokenizer
from gptwright.tokenizer.folder import content
from gptwright.tokenizer.kinds.pretrained import Pretrained

SLOT = Slot("tokenizer", package="gptwright.tokenizer.kinds", base="gptwright.tokenizer.base:Tokenizer")


def load(folder: str | Path, *, trust_code: bool = False) -> Tokenizer:
    """Read the tokenizer that `Tokenizer.save` wrote, or that of a model's folder as Hugging Face keeps it.

    ``trust_code`` says whether a kind of one's own, named in the folder, may be imported.

    Raises:
        DataError: there is none, it is damaged, or it would need code that is not trusted.
    """
    folder = Path(folder)
    if not (folder / KIND_FILE).exists():
        return Pretrained.from_folder(folder)
    contents = _files(folder)
    saved = _saved_config(folder, contents)
    try:
        component = SLOT.resolve(str(saved.get("type")), trust_code=trust_code)
        config = component.Config.from_dict(saved, trust_code=trust_code)
        return component.from_contents(config, contents)  # pyright: ignore[reportAttributeAccessIssue]
    except (PydanticCustomError, ConfigError, DataError) as error:
        raise DataError(f"the tokenizer in {folder} cannot be used: {error}") from None


def make_tokenizer(
    config: ComponentConfig,
    texts: Callable[[Literal["train", "all"]], Iterable[str]],
    *,
    with_eot: bool,
    progress: Progress | None = None,
    saved: Path | None = None,
) -> Tokenizer:
    """Train the tokenizer that ``config`` names, or read it from ``saved`` where it was trained before.

    ``texts("train")`` are the documents of the training split, ``texts("all")`` all of them.
    """
    if saved is not None:
        return load(saved, trust_code=True)  # its kind was named by the user's own settings
    kind: type[Tokenizer] = config.owner  # pyright: ignore[reportAssignmentType]
    return kind.train(config, texts(kind.LEARNS_FROM), with_eot=with_eot, progress=progress)


def _files(folder: Path) -> dict[str, bytes]:
    try:
        names = [file.name for file in folder.iterdir() if file.is_symlink() or file.is_file()]
    except OSError as error:
        raise DataError(f"no tokenizer can be read from {folder}: {error.strerror}") from None
    return {name: content(folder, name) for name in names}


def _saved_config(folder: Path, contents: dict[str, bytes]) -> dict[str, Any]:
    try:
        kind = json.loads(contents[KIND_FILE])
        config, written = dict(kind["config"]), kind["format"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{folder / KIND_FILE} is damaged: save the tokenizer again") from None
    if written != 1:
        raise DataError(f"{folder / KIND_FILE} has format {written}, and this gptwright reads 1: upgrade it")
    return config
