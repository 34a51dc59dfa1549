"""Shards being written: each finished, synced and noted before the next, so a killed attempt keeps them."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gptwright.data.checked import file_hash
from gptwright.data.contracts import SplitName
from gptwright.data.encode import Encoded
from gptwright.data.index import Shard, SplitIndex
from gptwright.data.place import write_file
from gptwright.data.split import sides_file

STATE = "state.json"
_COUNTS = ("tokens", "bytes", "characters", "documents", "batches")


class Progressed:
    """What an unfinished folder already holds: notes of what is finished, believed when its hash fits."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key
        saved = _read(folder / STATE)
        self.fits = saved.get("key") == key
        saved = saved if self.fits else {}
        self.split: list[dict[str, Any]] | None = self._intact_sides(saved.get("split"))
        self.tokenizer: str | None = saved.get("tokenizer")
        self.shards: list[dict[str, Any]] = self._intact(saved.get("shards", [])) if self.split else []

    def _intact_sides(self, noted: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        files = [(sides_file(self.folder, n), facts["sha256"]) for n, facts in enumerate(noted or ())]
        return noted if files and all(_is(path, sha256) for path, sha256 in files) else None

    def _intact(self, noted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the notes up to the first shard of each split that is missing or changed."""
        kept: list[dict[str, Any]] = []
        broken: set[str] = set()
        for note in noted:
            files = [((self.folder / note["file"]).with_suffix(end), found) for end, found in note["sha256"].items()]
            if note["line"] in broken or not all(_is(path, sha256) for path, sha256 in files):
                broken.add(note["line"])
            else:
                kept.append(note)
        return kept

    def of(self, line: str) -> list[dict[str, Any]]:
        """Return the finished shards of ``line``, one split of one part, in order."""
        return [note for note in self.shards if note["line"] == line]

    def batches(self, line: str) -> int:
        """Return how many batches of ``line`` need not be encoded again."""
        return sum(note["batches"] for note in self.of(line))

    def note_split(self, facts: list[dict[str, Any]]) -> None:
        """Remember how the documents were divided; their sides lie in files that are hashed."""
        hashes = [file_hash(sides_file(self.folder, n)) for n in range(len(facts))]
        self.split = [{**fact, "sha256": sha256} for fact, sha256 in zip(facts, hashes, strict=True)]
        self._save()

    def note_tokenizer(self, fingerprint: str) -> None:
        """Remember that the tokenizer is finished."""
        self.tokenizer = fingerprint
        self._save()

    def note_shard(self, note: dict[str, Any]) -> None:
        """Remember a finished shard."""
        self.shards.append(note)
        self._save()

    def _save(self) -> None:
        state = {"key": self.key, "split": self.split, "tokenizer": self.tokenizer, "shards": self.shards}
        write_file(self.folder / STATE, json.dumps(state, indent=1).encode())

    def summary(self, line: str) -> SplitIndex:
        """Return the index entry of a finished line."""
        notes = self.of(line)
        shards = [
            Shard(
                file=note["file"],
                tokens=note["tokens"],
                sha256=note["sha256"][".bin"],
                ends=note["documents"],
                ends_sha256=note["sha256"][".ends"],
                learn_sha256=note["sha256"].get(".learn"),
            )
            for note in notes
        ]
        counts = {name: sum(note[name] for note in notes) for name in _COUNTS if name != "batches"}
        return SplitIndex(**counts, shards=shards)


def write_part(
    progressed: Progressed, lines: dict[SplitName, str], found: Iterable[Encoded], shard_tokens: int, *, masked: bool
) -> None:
    """Write the batches ``found`` as shards of at most ``shard_tokens`` tokens (one batch at least) each.

    ``lines`` says what the files of each split are called; ``masked`` writes which tokens count in the loss.
    """
    open_ = {split: _OpenShard(progressed, line, masked=masked) for split, line in lines.items()}
    try:
        for batch in found:
            shard = open_[batch.split]
            if shard.counts["tokens"] and shard.counts["tokens"] + len(batch.ids) > shard_tokens:
                shard.finish()
                shard = open_[batch.split] = _OpenShard(progressed, lines[batch.split], masked=masked)
            shard.add(batch)
        for shard in open_.values():
            shard.finish()
    finally:
        for shard in open_.values():
            shard.close()


class _OpenShard:
    """One shard on its way; under names that nobody trusts until it is finished."""

    def __init__(self, progressed: Progressed, line: str, *, masked: bool) -> None:
        self._progressed = progressed
        self._line = line
        self._path = progressed.folder / f"{line}-{len(progressed.of(line)):05d}.bin"
        suffixes = (".bin", ".ends", ".learn") if masked else (".bin", ".ends")
        self._files = {suffix: _Hashed(self._path.with_suffix(suffix)) for suffix in suffixes}
        self.counts = dict.fromkeys(_COUNTS, 0)

    def add(self, batch: Encoded) -> None:
        self._files[".bin"].write(batch.ids.astype(batch.ids.dtype.newbyteorder("<"), copy=False))
        self._files[".ends"].write((batch.ends + self.counts["tokens"]).astype("<i8", copy=False))
        if ".learn" in self._files:
            self._files[".learn"].write(batch.learn.astype(np.uint8))
        more = (len(batch.ids), batch.bytes, batch.characters, len(batch.ends), 1)
        for name, count in zip(_COUNTS, more, strict=True):
            self.counts[name] += count

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def finish(self) -> None:
        keep = self.counts["tokens"] > 0
        hashes = {suffix: file.finish(keep=keep) for suffix, file in self._files.items()}
        if keep:
            self._progressed.note_shard({"line": self._line, "file": self._path.name, "sha256": hashes} | self.counts)


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._path, self._beside = path, path.with_name(path.name + ".unfinished")
        self._file = self._beside.open("wb")
        self._digest = hashlib.sha256()

    def write(self, numbers: np.ndarray) -> None:
        content = np.ascontiguousarray(numbers).tobytes()
        self._file.write(content)
        self._digest.update(content)

    def close(self) -> None:
        self._file.close()

    def finish(self, *, keep: bool) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        if keep:
            self._beside.replace(self._path)
        else:
            self._beside.unlink()
        return self._digest.hexdigest()


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and file_hash(path) == sha256


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
