"""Token files of others become prepared data, which a run uses as it would its own."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from gptwright.data.base import file_facts
from gptwright.data.census import teller
from gptwright.data.contracts import Progress, SplitName, TextTokenizer
from gptwright.data.encode import Encoded
from gptwright.data.index import FORMAT, INDEX, Index, PartIndex, TokenizerFacts
from gptwright.data.opened import already, dtype_of
from gptwright.data.place import publish, unwritable, workplace, write_file
from gptwright.data.shards import Prepared
from gptwright.data.sides import by_hash
from gptwright.data.token_files import Block, TokenFile
from gptwright.data.write import STATE, Progressed, write_part
from gptwright.errors import DataError

Files = Sequence[TokenFile]


class KnownTokenizer(TextTokenizer, Protocol):
    """A tokenizer that can say what each id stands for."""

    @classmethod
    def type_name(cls) -> str:
        """Return its kind."""
        ...

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of an id."""
        ...


def import_tokens(
    train: Files,
    val: Files,
    tokenizer: KnownTokenizer,
    folder: str | Path,
    *,
    val_fraction: float = 0.1,
    eot: int | None = None,
    progress: Progress | None = None,
    shard_tokens: int = 100_000_000,
) -> Prepared:
    """Write the ids of files into a folder of prepared data, which `data.source` can name.

    Args:
        train: files to learn from.
        val: files to validate on. Where there are none, about ``val_fraction`` of the documents validate, chosen by a
            hash of their ids; of a single document its end.
        tokenizer: what the ids mean.
        folder: where to put it; what it may hold is the same, imported before.
        val_fraction: see ``val``.
        eot: the id that ends each document. Default the tokenizer's.
        progress: called as ``progress("read", done, total)``.
        shard_tokens: most tokens in one shard, about.

    Raises:
        DataError: an id is not the tokenizer's (its place is named), a split would be empty, nothing can be written,
            or ``folder`` holds something else.
    """
    eot, target = tokenizer.eot_id if eot is None else eot, Path(folder).expanduser()
    key = _key(train, val, tokenizer, [val_fraction, eot, shard_tokens])
    if found := already(target, key):
        return found
    with workplace(target, lambda: None) as partial:
        if found := already(target, key):
            return found
        shutil.rmtree(partial)  # copying is quick: what a killed attempt left is not gone on with
        partial.mkdir()
        work = _Work(tokenizer, eot, partial, key, progress)
        try:
            work.run(train, val, val_fraction, shard_tokens)
            publish(partial, target)
        except DataError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except OSError as error:
            raise unwritable(target.parent, error) from error
    return Prepared.open(target)


class _Work:
    """One attempt, in a folder beside the target."""

    def __init__(
        self, tokenizer: KnownTokenizer, eot: int | None, folder: Path, key: str, progress: Progress | None
    ) -> None:
        self.tokenizer, self.eot, self.folder, self.key, self.progress = tokenizer, eot, folder, key, progress
        texts = [b"" if id == eot else tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        self._bytes = np.array([len(text) for text in texts], dtype=np.int64)
        self._characters = np.array([sum(byte & 0xC0 != 0x80 for byte in text) for text in texts], dtype=np.int64)
        self.done = Progressed(folder, key)

    def run(self, train: Files, val: Files, val_fraction: float, shard_tokens: int) -> None:
        """Write tokenizer, shards and index."""
        self.tokenizer.save(self.folder / "tokenizer")
        tell = teller(self.progress, "read", sum(file.tokens for file in (*train, *val)) * (1 if val else 2))
        if val:
            given: list[tuple[SplitName, Files]] = [("train", train), ("val", val)]
            routed: Iterator[tuple[SplitName, Block]] = (
                (name, block) for name, files in given for block in self._blocks(files, tell)
            )
        else:
            sides = by_hash(self._blocks(train, tell), val_fraction, _names(train))
            routed = sides.routed(self._blocks(train, tell))
        lines: dict[SplitName, str] = {"train": "train", "val": "val"}
        write_part(self.done, lines, map(self._encoded, routed), shard_tokens, masked=False)
        for file in (*train, *val):
            if file_facts(file.path) != file.facts:
                raise DataError(f"{file.path} changed while it was being read: run it again")
        self._write_index(train, val)

    def _blocks(self, files: Files, tell: Callable[[int], None]) -> Iterator[Block]:
        for file in files:
            for block in file.blocks(self.eot, self.tokenizer.vocab_size):
                tell(len(block.ids))
                yield block

    def _encoded(self, routed: tuple[SplitName, Block]) -> Encoded:
        name, (ids, ends) = routed
        size, characters = (int(table[ids].sum()) for table in (self._bytes, self._characters))
        stored = ids.astype(dtype_of(self.tokenizer))
        return Encoded(name, stored, np.ones(len(ids), dtype=bool), ends, size, characters)

    def _write_index(self, train: Files, val: Files) -> None:
        summaries = {}
        for name in ("train", "val"):
            if not self.done.of(name):
                raise DataError(f"{_names(val if name == 'val' else train)} holds no documents: give a file that does")
            summaries[name] = self.done.summary(name)
        tokenizer = self.tokenizer
        index = Index(
            format=FORMAT,
            key=self.key,
            dtype=dtype_of(tokenizer),
            source={"source": _names([*train, *val]), "name": train[0].path.stem, "notes": [], "format": "text"},
            tokenizer=TokenizerFacts(
                type=tokenizer.type_name(),
                vocab_size=tokenizer.vocab_size,
                eot_id=tokenizer.eot_id,
                fingerprint=tokenizer.fingerprint,
            ),
            parts=[PartIndex(name=train[0].path.stem, splits=summaries)],
        )
        (self.folder / STATE).unlink(missing_ok=True)
        write_file(self.folder / INDEX, (json.dumps(index.to_dict(), indent=1) + "\n").encode())


def _names(files: Files) -> str:
    return " + ".join(str(file.path) for file in files)


def _key(train: Files, val: Files, tokenizer: TextTokenizer, settings: list[float | int | None]) -> str:
    """Return a hash of everything that decides the shards."""
    facts = [[file.facts for file in files] for files in (train, val)]
    parts = [FORMAT, "tokens", facts, tokenizer.fingerprint, settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
