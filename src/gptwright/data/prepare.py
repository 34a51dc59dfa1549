"""From a source of text to hashed shards of token ids: split, tokenizer, tokens, index; all or nothing."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gptwright.data.base import Source
from gptwright.data.config import DataConfig
from gptwright.data.contracts import Progress, SplitName, TextTokenizer, TokenizerMaker
from gptwright.data.encode import Batch, batches, encode_all
from gptwright.data.index import FORMAT, INDEX, Index, TokenizerFacts, read_index
from gptwright.data.place import cache_folder, publish, unwritable, workplace, write_file
from gptwright.data.shards import Prepared
from gptwright.data.source import open_source
from gptwright.data.split import Split, split, teller
from gptwright.data.write import Progressed, write_split
from gptwright.errors import DataError

SHARD_TOKENS = 100_000_000
_SPLITS: tuple[SplitName, SplitName] = ("train", "val")


def prepare(
    config: DataConfig,
    *,
    make_tokenizer: TokenizerMaker,
    folder: str | Path | None = None,
    tokenizer: TextTokenizer | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Prepared:
    """Turn the source of ``config`` into a folder of token shards, or open the one that is already there.

    Args:
        config: the source, the tokenizer's settings and the part kept for validation.
        make_tokenizer: trains the tokenizer, such as `gptwright.tokenizer.load.make_tokenizer`.
        folder: where to put it; by default ``data/<name>-<key>`` in the cache.
        tokenizer: use this one as it is and train none (for fine-tuning, or evaluating on other text).
        progress: called as ``progress(stage, done, total)`` in characters.
        workers: threads that tokenize, by default one a core.
        shard_tokens: most tokens in one shard.

    Safe to interrupt (a later call goes on after the last finished shard) and to call from several processes
    at once (one works, the others wait and use its result).

    Raises:
        DataError: the source is missing, empty or unreadable, a split would be empty, nothing can be written,
            or ``folder`` already holds something else.
    """
    source = open_source(config)
    key = _key(config, source, tokenizer, shard_tokens)
    target = Path(folder).expanduser() if folder else cache_folder() / "data" / f"{_plain(source.name)}-{key[:16]}"
    tell = progress or (lambda stage, done, total: None)
    if found := _already(target, key):
        return found
    with workplace(target, lambda: tell("waiting", 0, None)) as partial:
        if found := _already(target, key):  # another process made it while we waited
            return found
        work = _Work(config, source, key, partial, tell, shard_tokens)
        _finish(work, target, make_tokenizer, tokenizer, workers)
    return _already(target, key) or Prepared.open(target)


def _finish(
    work: "_Work",
    target: Path,
    make_tokenizer: TokenizerMaker,
    tokenizer: TextTokenizer | None,
    workers: int | None,
) -> None:
    try:
        work.run(make_tokenizer, tokenizer, workers)
        publish(work.folder, target)
    except DataError:  # the text itself is wrong: there is nothing to go on with later
        shutil.rmtree(work.folder, ignore_errors=True)
        raise
    except OSError as error:
        raise unwritable(target.parent, error) from error


class _Work:
    """One attempt, in a folder beside the target."""

    def __init__(
        self,
        config: DataConfig,
        source: Source,
        key: str,
        folder: Path,
        progress: Progress,
        shard_tokens: int,
    ) -> None:
        self.config = config
        self.source = source
        self.key = key
        self.folder = folder
        self.progress = progress
        self.shard_tokens = shard_tokens
        self.done = Progressed(folder, key)
        if not self.done.fits:  # left by an attempt at something else
            shutil.rmtree(folder)
            folder.mkdir()

    def run(self, make_tokenizer: TokenizerMaker, tokenizer: TextTokenizer | None, workers: int | None) -> None:
        before = self.source.fingerprint_hint
        parts = split(self.source, self.config.val_fraction, self.progress)
        tokenizer = self._tokenizer(parts, make_tokenizer, tokenizer)
        for name in _SPLITS:
            self._encode(name, parts, tokenizer, workers)
        if open_source(self.config).fingerprint_hint != before:
            raise DataError(f"data.source '{self.config.source}' changed while it was being read: run it again")
        self._write_index(parts, tokenizer)

    def _tokenizer(self, parts: Split, make_tokenizer: TokenizerMaker, given: TextTokenizer | None) -> TextTokenizer:
        place = self.folder / "tokenizer"
        if self.done.tokenizer:
            kept = given or self._make(parts, make_tokenizer, place)
            if kept.fingerprint == self.done.tokenizer:
                return kept
        shutil.rmtree(place, ignore_errors=True)
        self.done.shards.clear()
        made = given or self._make(parts, make_tokenizer, None)
        made.save(place)
        self.done.note_tokenizer(made.fingerprint)
        return made

    def _make(self, parts: Split, make_tokenizer: TokenizerMaker, saved: Path | None) -> TextTokenizer:
        def tell(stage: str, done: int, total: int | None) -> None:
            self.progress(stage, done, total or parts.characters)

        config, eot = self.config.tokenizer, parts.with_eot
        return make_tokenizer(config, parts.texts, with_eot=eot, progress=tell, saved=saved)

    def _encode(self, name: SplitName, parts: Split, tokenizer: TextTokenizer, workers: int | None) -> None:
        eot = tokenizer.eot_id if parts.with_eot else None
        before = sum(note["characters"] for note in self.done.shards)
        every = batches(parts.texts(name), tokenizer, min(1 << 20, self.shard_tokens))
        rest = islice(every, self.done.batches(name), None)
        dtype = np.dtype(_dtype(tokenizer))
        tell = teller(self.progress, "tokenize", parts.characters, before)
        encoded = encode_all(_watched(rest, tell), tokenizer, eot, workers)
        write_split(self.done, name, encoded, dtype, self.shard_tokens)

    def _write_index(self, parts: Split, tokenizer: TextTokenizer) -> None:
        facts = TokenizerFacts(
            type=self.config.tokenizer.type,
            vocab_size=tokenizer.vocab_size,
            eot_id=tokenizer.eot_id,
            fingerprint=tokenizer.fingerprint,
        )
        index = Index(
            format=FORMAT,
            key=self.key,
            dtype=_dtype(tokenizer),
            source={"source": self.config.source, "name": self.source.name, "notes": self.source.notes},
            tokenizer=facts,
            splits={name: self.done.summary(name) for name in _SPLITS},
        )
        self._tidy(index)
        write_file(self.folder / INDEX, (json.dumps(index.to_dict(), indent=1) + "\n").encode())

    def _tidy(self, index: Index) -> None:
        """Remove what an earlier attempt may have left and the index does not name."""
        keep = {shard.file for part in index.splits.values() for shard in part.shards} | {"tokenizer"}
        for path in self.folder.iterdir():
            if path.name not in keep:
                path.unlink()


def _watched(found: Iterator[Batch], tell: Any) -> Iterator[Batch]:
    for batch in found:
        yield batch
        tell(batch.characters)


def _dtype(tokenizer: TextTokenizer) -> Literal["uint16", "uint32"]:
    return "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"


def _key(config: DataConfig, source: Source, tokenizer: TextTokenizer | None, shard_tokens: int) -> str:
    """Return a hash of everything that decides the shards."""
    settings = config.to_dict() | {"source": source.fingerprint_hint}
    given = tokenizer.fingerprint if tokenizer else None
    parts = [FORMAT, settings, given, shard_tokens]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _already(target: Path, key: str) -> Prepared | None:
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


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "text"
