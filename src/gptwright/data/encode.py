"""Documents to batches to token ids, on several threads, in order.

Batches depend on the text and on nothing else, so a later attempt can skip those that an earlier one
finished. Threads are enough: numpy and the tokenizers library both let go of Python's lock, and nothing is forked.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from gptwright.data.contracts import TextTokenizer
from gptwright.errors import DataError

_PIECE = 1 << 16  # characters of one piece
_BATCH = 1 << 20  # most characters of one batch, about


@dataclass
class Batch:
    """Pieces of text that are encoded together; ``ends`` says which of them end a document."""

    pieces: list[str] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)
    characters: int = 0

    def add(self, piece: str, end: bool) -> None:
        """Append a piece."""
        self.pieces.append(piece)
        self.ends.append(end)
        self.characters += len(piece)


@dataclass(frozen=True)
class Encoded:
    """The ids of one batch, with what they were made of."""

    ids: np.ndarray
    bytes: int
    characters: int
    documents: int


def batches(texts: Iterable[str], tokenizer: TextTokenizer, limit: int = _BATCH) -> Iterator[Batch]:
    """Yield the documents in batches of about ``limit`` characters; a long document spans several."""
    batch, piece_size = Batch(), min(_PIECE, limit)
    for text in texts:
        left = len(text)
        for piece in tokenizer.pieces(text, piece_size):
            left -= len(piece)
            batch.add(piece, left == 0)
            if batch.characters + len(batch.pieces) >= limit:
                yield batch
                batch = Batch()
    if batch.pieces:
        yield batch


def encode_batch(batch: Batch, tokenizer: TextTokenizer, eot: int | None) -> Encoded:
    """Return the ids of a batch, ``eot`` after each document unless it is None.

    Raises:
        DataError: the tokenizer gives ids outside its own vocabulary.
    """
    parts: list[np.ndarray] = []
    mark = np.array([] if eot is None else [eot], dtype=np.int64)
    for ids, end in zip(tokenizer.encode_batch(batch.pieces), batch.ends, strict=True):
        parts += [ids, mark] if end else [ids]
    count = sum(len(piece) if piece.isascii() else len(piece.encode()) for piece in batch.pieces)
    ids = np.concatenate(parts)
    if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
        raise DataError(
            f"the tokenizer gave ids {ids.min()} to {ids.max()}, outside its vocabulary of "
            f"{tokenizer.vocab_size}: its encode or its vocab_size is wrong"
        )
    return Encoded(ids, count, batch.characters, sum(batch.ends))


def encode_all(
    found: Iterable[Batch], tokenizer: TextTokenizer, eot: int | None, workers: int | None = None
) -> Iterator[Encoded]:
    """Encode batches on ``workers`` threads (default: one a core), in order, holding only a few at a time."""
    workers = workers or os.cpu_count() or 1
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="tokenize") as pool:
        for batch in found:
            waiting.append(pool.submit(encode_batch, batch, tokenizer, eot))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
