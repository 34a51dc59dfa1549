"""The index of prepared data: what each shard holds, and its hash."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gptwright.config.base import Config
from gptwright.data.contracts import SplitName
from gptwright.errors import ConfigError, DataError

FORMAT = 2
READS = (1, 2)
"""Layouts that can be opened; 1 has a single part, no loss masks, and does not say where documents end."""
INDEX = "index.json"


class Shard(Config):
    """One file of token ids, little-endian and nothing else, and what lies beside it under the same name."""

    file: str = Field(pattern=r"^(part-[0-9]+-)?(train|val)-[0-9]{5}\.bin$")
    """File name."""
    tokens: int = Field(gt=0)
    """Token ids in it."""
    sha256: str
    """Hash of the file's bytes, hexadecimal."""
    ends: int = Field(0, ge=0)
    """Documents that end in it; the `.ends` file says after how many of its tokens, int64 each."""
    ends_sha256: str | None = None
    """Hash of the `.ends` file; null where there is none."""
    learn_sha256: str | None = None
    """Hash of the `.learn` file, one byte a token, 1 where it counts in the loss; null: every token counts."""


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


class PartIndex(Config):
    """What one source gave."""

    name: str
    """What its figures are called in the metrics."""
    splits: dict[Literal["train", "val"], SplitIndex]
    """The two sides."""
    duplicates: int = 0
    """Documents left out because they were there before."""


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

    format: Literal[1, 2]
    """Version of this layout."""
    key: str
    """Hash of the source's identity and the settings: data with an equal key is the same data."""
    dtype: Literal["uint16", "uint32"]
    """Type of one token id."""
    source: dict[str, Any]
    """Where the text came from, what was left out, and the format and template of its documents."""
    tokenizer: TokenizerFacts
    """What the ids mean."""
    parts: list[PartIndex] = Field(min_length=1)
    """The sources, in the order of the mixture."""

    @property
    def splits(self) -> dict[SplitName, SplitIndex]:
        """The two sides, summed over the parts."""
        return {name: _summed([part.splits[name] for part in self.parts]) for name in ("train", "val")}

    @property
    def masked(self) -> bool:
        """Whether it says which tokens count in the loss."""
        return any(shard.learn_sha256 for part in self.splits.values() for shard in part.shards)

    @property
    def fingerprint(self) -> str:
        """The sha256 of what a model would see: tokenizer, type and shard hashes; not of paths or dates."""
        parts = [self._seen(part) for part in self.parts]
        seen = [self.dtype, self.tokenizer.fingerprint, parts[0] if len(parts) == 1 else parts]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    def _seen(self, part: PartIndex) -> dict[str, list[str]]:
        return {
            name: [
                seen
                for shard in split.shards
                for seen in (shard.sha256, self._beside(shard, split))
                if seen is not None
            ]
            for name, split in sorted(part.splits.items())
        }

    def _beside(self, shard: Shard, split: SplitIndex) -> str | None:
        """Return the hashes of what the ids alone do not tell: the loss mask, and ends that no token marks."""
        marked = self.tokenizer.eot_id is not None or split.documents == 1
        found = [shard.learn_sha256, None if marked else shard.ends_sha256]
        return "".join(one for one in found if one) or None


def _summed(parts: list[SplitIndex]) -> SplitIndex:
    counts = {
        name: sum(getattr(part, name) for part in parts) for name in ("tokens", "bytes", "characters", "documents")
    }
    return SplitIndex(**counts, shards=[shard for part in parts for shard in part.shards])


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
    if isinstance(data, dict) and data.get("format") not in READS:
        raise DataError(
            f"{path} has format {data.get('format')}, and this gptwright reads formats {READS[0]} to {READS[-1]}: "
            f"delete {folder} and prepare the data again"
        )
    try:
        index = Index.from_dict(_newest(data))
    except (ConfigError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path} is damaged ({why}): delete {folder} and prepare the data again") from None
    for part in index.parts:
        if len(part.splits) != 2:
            have = ", ".join(part.splits) or "none"
            raise DataError(
                f"{path} is damaged (it has the splits {have}, not train and val): "
                f"delete {folder} and prepare the data again"
            )
    return index


def _newest(data: Any) -> Any:
    """Return an index of format 1 with its one part under ``parts``."""
    if not isinstance(data, dict) or data["format"] != 1 or "splits" not in data:
        return data
    rest = {key: value for key, value in data.items() if key != "splits"}
    return rest | {"parts": [{"name": str(data.get("source", {}).get("name", "text")), "splits": data["splits"]}]}
