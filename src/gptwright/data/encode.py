"""Documents to batches to token ids, on several threads, in order.

Batches depend on the text and on nothing else, so a later attempt can skip those that an earlier one
finished. Threads are enough: numpy and the tokenizers library both let go of Python's lock, and nothing is forked.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from gptwright.data.base import Piece
from gptwright.data.contracts import SplitName, TextTokenizer
from gptwright.errors import DataError

_PIECE = 1 << 16  # characters of one piece
BATCH = 1 << 20
"""Most characters of one batch, about."""


@dataclass
class Batch:
    """Pieces of text of one split that are encoded together."""

    split: SplitName
    pieces: list[Piece] = field(default_factory=list)
    characters: int = 0
    goes_on: bool = False
    """Whether the first piece continues the last document of the batch before."""

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        self.pieces.append(piece)
        self.characters += len(piece.text)

    def full(self, limit: int) -> bool:
        """Say whether there is no room for more; each piece counts, so that empty batches end too."""
        return self.characters + len(self.pieces) >= limit


@dataclass(frozen=True)
class Encoded:
    """The ids of one batch, with what they were made of."""

    split: SplitName
    ids: np.ndarray
    """(n,) of the type in which they are stored."""
    learn: np.ndarray
    """(n,) bool: which count in the loss."""
    ends: np.ndarray
    """int64: after how many of these tokens each document ends that ends here."""
    bytes: int
    characters: int


class _Cutter:
    """Cuts one split's documents, which come in pieces of any size, where the tokenizer says that it may.

    The last piece is held back until more has come or the document has ended: only then is its end known.
    """

    def __init__(self, tokenizer: TextTokenizer, size: int) -> None:
        self.tokenizer, self.size = tokenizer, size
        self._held: list[str] = []
        self._length = self._wait = 0
        self._learn = True

    def push(self, piece: Piece) -> Iterator[Piece]:
        """Yield the pieces that are ready."""
        if piece.marked is not None:
            yield piece
            return
        if self._held and piece.learn != self._learn:
            yield from self._cut(whole=True, last=False)
        self._learn = piece.learn
        self._held.append(piece.text)
        self._length += len(piece.text)
        if piece.last or self._length >= self._wait:
            yield from self._cut(whole=piece.last, last=piece.last)

    def _cut(self, *, whole: bool, last: bool) -> Iterator[Piece]:
        text = self._held[0] if len(self._held) == 1 else "".join(self._held)
        before = None
        for found in self.tokenizer.pieces(text, self.size):
            if before is not None:
                yield Piece(before, last=False, learn=self._learn)
            before = found
        self._held = []
        if whole and before is not None:
            yield Piece(before, last, self._learn)
        elif before is not None:
            self._held = [before]
        self._length = sum(map(len, self._held))
        self._wait = 2 * self._length  # a text without any place to cut is not searched again and again


def batches(found: Iterable[tuple[SplitName, Piece]], tokenizer: TextTokenizer, limit: int = BATCH) -> Iterator[Batch]:
    """Yield each split's documents in batches of about ``limit`` characters; a long document spans several."""
    open_ = {name: (Batch(name), _Cutter(tokenizer, min(_PIECE, limit))) for name in ("train", "val")}
    for name, whole in found:
        batch, cutter = open_[name]
        for piece in cutter.push(whole):
            batch.add(piece)
            if batch.full(limit):
                yield batch
                batch = Batch(name, goes_on=not piece.last)
        open_[name] = batch, cutter
    yield from (batch for batch, _ in open_.values() if batch.pieces)


def encode_batch(batch: Batch, tokenizer: TextTokenizer, eot: int | None, dtype: np.dtype) -> Encoded:
    """Return the ids of a batch: of each document what texts begin with, its own, and ``eot`` unless it is None.

    A document with special tokens in its text, which a chat template wrote, has both where the template writes them.

    Raises:
        DataError: the tokenizer gives ids outside its own vocabulary.
    """
    parts, masks = [list(each) for each in zip(*_encoded(batch, tokenizer, eot), strict=True)]
    ids = np.concatenate(parts)
    if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
        raise DataError(
            f"the tokenizer gave ids {ids.min()} to {ids.max()}, outside its vocabulary of "
            f"{tokenizer.vocab_size}: its encode or its vocab_size is wrong"
        )
    lengths = np.array([len(part) for part in parts])
    learn = np.concatenate(masks)
    ends = np.cumsum(lengths)[np.array([piece.last for piece in batch.pieces])]
    size = sum(len(text) if text.isascii() else len(text.encode()) for text, *_ in batch.pieces)
    return Encoded(batch.split, ids.astype(dtype), learn, ends.astype(np.int64), size, batch.characters)


def _encoded(batch: Batch, tokenizer: TextTokenizer, eot: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the ids of each piece, and which of them count in the loss."""
    texts = iter(tokenizer.encode_batch([piece.text for piece in batch.pieces if piece.marked is None]))
    before, after = _ids(tokenizer.prefix_ids), _ids(() if eot is None else (eot,))
    first = not batch.goes_on
    for piece in batch.pieces:
        if piece.marked is not None:
            yield tokenizer.encode_spans(piece.text, piece.marked)
        else:
            begun, ended = before[: len(before) * first], after[: len(after) * piece.last]
            ids = next(texts)
            ids = np.concatenate([begun, ids, ended]) if len(begun) or len(ended) else ids
            learn = np.full(len(ids), piece.learn)
            learn[: len(begun)] = False  # nobody has to say how a text begins
            yield ids, learn
        first = piece.last


def _ids(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, dtype=np.int64)


def encode_all(
    found: Iterable[Batch], tokenizer: TextTokenizer, eot: int | None, dtype: np.dtype, workers: int | None = None
) -> Iterator[Encoded]:
    """Encode batches on ``workers`` threads (default: one a core), in order, holding only a few at a time."""
    workers = workers or os.cpu_count() or 1
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="tokenize") as pool:
        for batch in found:
            waiting.append(pool.submit(encode_batch, batch, tokenizer, eot, dtype))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
