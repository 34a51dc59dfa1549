"""From a source of text to hashed shards of token ids: split, tokenizer, tokens, index; all or nothing."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gptwright.config.cache import cache_folder
from gptwright.data.base import Source
from gptwright.data.census import teller
from gptwright.data.chat_template import chat_template, settle
from gptwright.data.config import DataConfig
from gptwright.data.contracts import Progress, SplitName, TextTokenizer, TokenizerMaker
from gptwright.data.encode import BATCH, Batch, batches, encode_all
from gptwright.data.index import FORMAT, INDEX, Index, PartIndex, TokenizerFacts
from gptwright.data.opened import already, dtype_of, prepared_source
from gptwright.data.place import publish, unwritable, workplace, write_file
from gptwright.data.sample import texts
from gptwright.data.shards import Prepared
from gptwright.data.source import open_sources
from gptwright.data.split import Part, changed, restored, split
from gptwright.data.write import Progressed, write_part
from gptwright.errors import DataError

SHARD_TOKENS = 100_000_000
_SPLITS: tuple[SplitName, SplitName] = ("train", "val")
_LATER = {"packing"}  # settings that decide how rows are made of shards, and not the shards
_NEWER = {"hf_streaming", "hf_subset", "hf_files", "limit"}  # left out where not set, so that older data keeps its key


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
    """Turn the source or mixture of ``config`` into a folder of token shards, or open the one that is already there.

    A source that is such a folder itself is opened as it is, with its own tokenizer and split.

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
    if found := prepared_source(config, tokenizer, folder):
        return found
    config, tokenizer = settle(config, tokenizer, make_tokenizer)
    sources = open_sources(config)
    key = _key(config, sources, tokenizer, shard_tokens)
    target = Path(folder).expanduser() if folder else cache_folder() / "data" / f"{_plain(_name(sources))}-{key[:16]}"
    tell = progress or (lambda stage, done, total: None)
    if found := already(target, key):
        return found
    with workplace(target, lambda: tell("waiting", 0, None)) as partial:
        if found := already(target, key):  # another process made it while we waited
            return found
        work = _Work(config, sources, key, partial, tell, shard_tokens)
        _finish(work, target, make_tokenizer, tokenizer, workers)
    return already(target, key) or Prepared.open(target)


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
        sources: list[Source],
        key: str,
        folder: Path,
        progress: Progress,
        shard_tokens: int,
    ) -> None:
        self.config = config
        self.sources = sources
        self.key = key
        self.folder = folder
        self.progress = progress
        self.shard_tokens = shard_tokens
        self.done = Progressed(folder, key)
        if not self.done.fits:  # left by an attempt at something else
            shutil.rmtree(folder)
            folder.mkdir()

    def run(self, make_tokenizer: TokenizerMaker, tokenizer: TextTokenizer | None, workers: int | None) -> None:
        before = _hints(self.sources)
        parts = self._split()
        tokenizer = self._tokenizer(parts, make_tokenizer, tokenizer)
        total = sum(part.characters for part in parts)
        tell = teller(self.progress, "tokenize", total, sum(note["characters"] for note in self.done.shards))
        for number, part in enumerate(parts):
            self._encode(part, self._lines(number), tokenizer, tell, workers)
        for source, hint, now in zip(self.sources, before, _hints(open_sources(self.config)), strict=True):
            if hint != now:
                raise changed(source)
        self._write_index(parts, tokenizer)

    def _split(self) -> list[Part]:
        if self.done.split is not None:
            facts = [{key: value for key, value in one.items() if key != "sha256"} for one in self.done.split]
            return restored(self.sources, self.folder, facts)
        config = self.config
        parts = split(self.sources, self.folder, config.val_fraction, dedup=config.dedup, progress=self.progress)
        self.done.note_split([part.facts() for part in parts])
        return parts

    def _tokenizer(
        self, parts: list[Part], make_tokenizer: TokenizerMaker, given: TextTokenizer | None
    ) -> TextTokenizer:
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

    def _make(self, parts: list[Part], make_tokenizer: TokenizerMaker, saved: Path | None) -> TextTokenizer:
        limit, total = self.config.tokenizer_characters, sum(part.characters for part in parts)

        def tell(stage: str, done: int, known: int | None) -> None:
            self.progress(stage, done, known or total)

        def learnt_from(split: Literal["train", "all"]) -> Iterator[str]:
            return texts(parts, split, limit)

        eot = len(parts) > 1 or parts[0].cut is None
        return make_tokenizer(self.config.tokenizer, learnt_from, with_eot=eot, progress=tell, saved=saved)

    def _lines(self, number: int) -> dict[SplitName, str]:
        """Return what the files of a part are called."""
        start = f"part-{number}-" if len(self.sources) > 1 else ""
        return {name: f"{start}{name}" for name in _SPLITS}

    def _encode(
        self,
        part: Part,
        lines: dict[SplitName, str],
        tokenizer: TextTokenizer,
        tell: Callable[[int], None],
        workers: int | None,
    ) -> None:
        eot = tokenizer.eot_id if part.cut is None else None
        skip: dict[SplitName, int] = {name: self.done.batches(line) for name, line in lines.items()}
        every = batches(part.routed(), tokenizer, min(BATCH, self.shard_tokens))
        encoded = encode_all(_rest(every, skip, tell), tokenizer, eot, np.dtype(dtype_of(tokenizer)), workers)
        write_part(self.done, lines, encoded, self.shard_tokens, masked=not part.source.format.is_text)

    def _write_index(self, parts: list[Part], tokenizer: TextTokenizer) -> None:
        facts = TokenizerFacts(
            type=self.config.tokenizer.type,
            vocab_size=tokenizer.vocab_size,
            eot_id=tokenizer.eot_id,
            fingerprint=tokenizer.fingerprint,
        )
        index = Index(
            format=FORMAT,
            key=self.key,
            dtype=dtype_of(tokenizer),
            source=self._described(tokenizer),
            tokenizer=facts,
            parts=[
                PartIndex(
                    name=part.source.name,
                    splits={name: self.done.summary(line) for name, line in self._lines(number).items()},
                    duplicates=part.duplicates,
                )
                for number, part in enumerate(parts)
            ],
        )
        self._tidy(index)
        write_file(self.folder / INDEX, (json.dumps(index.to_dict(), indent=1) + "\n").encode())

    def _described(self, tokenizer: TextTokenizer) -> dict[str, Any]:
        config, notes = self.config, [note for source in self.sources for note in source.notes]
        if config.format != "text" and tokenizer.eot_id is None:
            notes.append("the tokenizer has no end-of-text token, so nothing marks the end of an example")
        found = {"source": config.described, "name": _name(self.sources), "notes": notes, "format": config.format}
        return found | ({"template": chat_template(config.template).text} if config.format == "chat" else {})

    def _tidy(self, index: Index) -> None:
        """Remove what an earlier attempt may have left and the index does not name."""
        shards = [shard.file for part in index.splits.values() for shard in part.shards]
        suffixes = (".bin", ".ends", ".learn") if index.masked else (".bin", ".ends")
        keep = {str(Path(file).with_suffix(suffix)) for file in shards for suffix in suffixes} | {"tokenizer"}
        for path in self.folder.iterdir():
            if path.name not in keep:
                path.unlink()


def _rest(found: Iterator[Batch], skip: dict[SplitName, int], tell: Callable[[int], None]) -> Iterator[Batch]:
    """Yield the batches that are not done, and tell of them."""
    seen: Counter[SplitName] = Counter()
    for batch in found:
        seen[batch.split] += 1
        if seen[batch.split] > skip[batch.split]:
            yield batch
            tell(batch.characters)


def _hints(sources: list[Source]) -> list[dict[str, Any]]:
    return [source.fingerprint_hint for source in sources]


def _name(sources: list[Source]) -> str:
    return "+".join(source.name for source in sources)


def _key(config: DataConfig, sources: list[Source], tokenizer: TextTokenizer | None, shard_tokens: int) -> str:
    """Return a hash of everything that decides the shards; how rows are made of them is decided later."""
    told = ((key, value) for key, value in config.to_dict().items() if value or key not in _NEWER)
    settings = {key: value for key, value in told if key not in _LATER}
    settings["mixture"] = [part.name for part in config.mixture or ()]
    settings["parts"] = [[part.text_field, part.hf_split] for part in config.parts]
    settings["source"] = _hints(sources)
    given = tokenizer.fingerprint if tokenizer else None
    parts = [FORMAT, settings, given, shard_tokens]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "text"
