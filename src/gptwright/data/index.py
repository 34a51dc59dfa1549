"""The index of prepared data: what each shard holds, and its hash."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gptwright.config.base import Config
from gptwright.errors import ConfigError, DataError

FORMAT = 1
INDEX = "index.json"


class Shard(Config):
    """One file of token ids, little-endian and nothing else."""

    file: str = Field(pattern=r"^(train|val)-[0-9]{5}\.bin$")
    """File name."""
    tokens: int = Field(gt=0)
    """Token ids in it."""
    sha256: str
    """Hash of the file's bytes, hexadecimal."""


class SplitIndex(Config):
    """What one split holds."""

    tokens: int = Field(gt=0)
    """Token ids, end-of-text ones included."""
    bytes: int
    """UTF-8 bytes of the text; bits per byte divide by these."""
    characters: int
    """Characters of the text."""
    documents: int
    """Documents, or parts of one."""
    shards: list[Shard]
    """The files, in order."""


class TokenizerFacts(Config):
    """What the ids mean; the tokenizer itself lies in the folder `tokenizer`."""

    type: str
    """Its kind."""
    vocab_size: int
    """Number of ids."""
    eot_id: int | None
    """The end-of-text id, or null."""
    fingerprint: str
    """Its hash."""


class Index(Config):
    """Everything about a folder of prepared data."""

    format: Literal[1]
    """Version of this layout."""
    key: str
    """Hash of the source's identity and the settings: data with an equal key is the same data."""
    dtype: Literal["uint16", "uint32"]
    """Type of one token id."""
    source: dict[str, Any]
    """Where the text came from."""
    tokenizer: TokenizerFacts
    """What the ids mean."""
    splits: dict[Literal["train", "val"], SplitIndex]
    """The two parts."""

    @property
    def fingerprint(self) -> str:
        """The sha256 of what a model would see: tokenizer, type and shard hashes; not of paths or dates."""
        shards = {name: [shard.sha256 for shard in part.shards] for name, part in sorted(self.splits.items())}
        seen = [self.dtype, self.tokenizer.fingerprint, shards]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def read_index(folder: Path) -> Index:
    """Read the index of ``folder``.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    path = folder / INDEX
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{folder} holds no prepared data (cannot read {INDEX}: {error.strerror}): "
            "make it with gptwright data prepare"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): delete {folder} and prepare the data again") from None
    if isinstance(data, dict) and data.get("format") != FORMAT:
        raise DataError(
            f"{path} has format {data.get('format')}, and this gptwright reads format {FORMAT}: "
            f"delete {folder} and prepare the data again"
        )
    try:
        index = Index.from_dict(data)
    except (ConfigError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path} is damaged ({why}): delete {folder} and prepare the data again") from None
    if len(index.splits) != 2:
        have = ", ".join(index.splits) or "none"
        raise DataError(
            f"{path} is damaged (it has the splits {have}, not train and val): "
            f"delete {folder} and prepare the data again"
        )
    return index
