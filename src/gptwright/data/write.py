"""Shards being written: each finished, synced and noted before the next, so a killed attempt keeps them."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gptwright.data.contracts import SplitName
from gptwright.data.encode import Encoded
from gptwright.data.index import Shard, SplitIndex
from gptwright.data.place import write_file
from gptwright.data.shards import file_hash

STATE = "state.json"
_COUNTS = ("tokens", "bytes", "characters", "documents", "batches")


class Progressed:
    """What an unfinished folder already holds: notes of finished shards, believed when their hash fits."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key
        saved = _read(folder / STATE)
        self.fits = saved.get("key") == key
        self.tokenizer: str | None = saved.get("tokenizer") if self.fits else None
        self.shards: list[dict[str, Any]] = self._intact(saved.get("shards", [])) if self.fits else []

    def _intact(self, noted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the notes up to the first shard of each split that is missing or changed."""
        kept: list[dict[str, Any]] = []
        broken: set[str] = set()
        for note in noted:
            path = self.folder / note["file"]
            if note["split"] in broken or not path.is_file() or file_hash(path) != note["sha256"]:
                broken.add(note["split"])
            else:
                kept.append(note)
        return kept

    def of(self, split: SplitName) -> list[dict[str, Any]]:
        """Return the finished shards of ``split``, in order."""
        return [note for note in self.shards if note["split"] == split]

    def batches(self, split: SplitName) -> int:
        """Return how many batches of ``split`` need not be encoded again."""
        return sum(note["batches"] for note in self.of(split))

    def note_tokenizer(self, fingerprint: str) -> None:
        """Remember that the tokenizer is finished."""
        self.tokenizer = fingerprint
        self._save()

    def note_shard(self, note: dict[str, Any]) -> None:
        """Remember a finished shard."""
        self.shards.append(note)
        self._save()

    def _save(self) -> None:
        state = {"key": self.key, "tokenizer": self.tokenizer, "shards": self.shards}
        write_file(self.folder / STATE, json.dumps(state, indent=1).encode())

    def summary(self, split: SplitName) -> SplitIndex:
        """Return the index entry of a finished split."""
        notes = self.of(split)
        shards = [Shard(file=n["file"], tokens=n["tokens"], sha256=n["sha256"]) for n in notes]
        counts = {name: sum(note[name] for note in notes) for name in _COUNTS if name != "batches"}
        return SplitIndex(**counts, shards=shards)


def write_split(
    progressed: Progressed, split: SplitName, found: Iterable[Encoded], dtype: np.dtype, shard_tokens: int
) -> None:
    """Write the batches ``found`` as shards of at most ``shard_tokens`` tokens (one batch at least) each."""
    shard = _OpenShard(progressed, split, dtype)
    try:
        for batch in found:
            if shard.counts["tokens"] and shard.counts["tokens"] + len(batch.ids) > shard_tokens:
                shard.finish()
                shard = _OpenShard(progressed, split, dtype)
            shard.add(batch)
        shard.finish()
    finally:
        shard.close()


class _OpenShard:
    """One shard on its way; under a name that nobody trusts until it is finished."""

    def __init__(self, progressed: Progressed, split: SplitName, dtype: np.dtype) -> None:
        self._progressed = progressed
        self._split = split
        self._dtype = dtype.newbyteorder("<")
        self._path = progressed.folder / f"{split}-{len(progressed.of(split)):05d}.bin"
        self._beside = self._path.with_suffix(".unfinished")
        self._file = self._beside.open("wb")
        self._digest = hashlib.sha256()
        self.counts = dict.fromkeys(_COUNTS, 0)

    def add(self, batch: Encoded) -> None:
        content = batch.ids.astype(self._dtype).tobytes()
        self._file.write(content)
        self._digest.update(content)
        more = (len(batch.ids), batch.bytes, batch.characters, batch.documents, 1)
        for name, count in zip(_COUNTS, more, strict=True):
            self.counts[name] += count

    def close(self) -> None:
        self._file.close()

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        if not self.counts["tokens"]:
            self._beside.unlink()
            return
        self._beside.replace(self._path)
        note = {"split": self._split, "file": self._path.name, "sha256": self._digest.hexdigest()}
        self._progressed.note_shard(note | self.counts)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
