"""Two models on the same texts: which needs fewer bits, by how many, and how sure that is."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from gptwright.errors import DataError
from gptwright.evaluate.comparison import Comparison
from gptwright.evaluate.interval import FEWEST, ratio_difference
from gptwright.evaluate.likelihood import byte_lengths
from gptwright.evaluate.scoring import scoring
from gptwright.evaluate.strided import Read, read_text, token_nats, window
from gptwright.generate.writer import tokenizer_of
from gptwright.model.gpt import GPT

BLOCK = 500
"""Bytes of a block, at least, where a single text is cut into blocks."""
BLOCKS = 50
"""Blocks that a single text is cut into, at most: neighbours are alike, and long blocks less so."""
TOGETHER = 1 << 20
"""Tokens of documents that are scored at once."""


def compare_texts(
    first: GPT,
    second: GPT,
    texts: Sequence[str],
    *,
    names: tuple[str, str] = ("A", "B"),
    stride: int | None = None,
    context: int | None = None,
    precision: str = "fp32",
    seed: int = 0,
) -> Comparison:
    """Compare two models, of any tokenizers, by bits a byte on the same documents.

    Each document is scored on its own as `score_text` does. The interval draws documents with both models' figures
    (see `ratio_difference`). A single text of 5,000 bytes or more is cut into up to 50 blocks of equal bytes after it
    was scored whole; those stand for documents then, which takes neighbouring blocks for independent.

    Args:
        first: a model with its tokenizer.
        second: another.
        texts: the documents; those that have no token to predict for one of the models are left out.
        names: what the models are called in the sentence.
        stride: see `score_text`; each model has its own default.
        context: see `score_text`.
        precision: see `score_text`.
        seed: of the interval's draws.

    Raises:
        DataError: no document can be scored.
        ConfigError: stride or context do not fit a model.
    """
    models = (first, second)
    windows = [window(model, context, stride) for model in models]  # refused before anything is computed
    read = [[read_text(tokenizer_of(model), text) for text in texts] for model in models]
    kept = [number for number, both in enumerate(zip(*read, strict=True)) if all(_counts(one) for one in both)]
    if not kept:
        raise DataError(f"none of {len(texts)} documents has a token to predict for both models; give longer ones")
    blocks = _blocks(texts[kept[0]]) if len(kept) == 1 else 0
    (nats, size), (other, other_size) = (
        _sums(model, [reads[number] for number in kept], where, precision, blocks)
        for model, reads, where in zip(models, read, windows, strict=True)
    )
    bits = 1 / math.log(2)
    found = ratio_difference(nats * bits, size, other * bits, other_size, seed=seed)
    values = (float(nats.sum() * bits / size.sum()), float(other.sum() * bits / other_size.sum()))
    what = "blocks of one text" if blocks else "documents"
    notes = _notes([reads[kept[0]] for reads in read], len(texts) - len(kept))
    return Comparison(names, "bits_per_byte", values, found, documents=what, notes=notes)


def _counts(read: Read) -> bool:
    return read.counted > 0 and read.counted_bytes > 0


def _blocks(text: str) -> int:
    """Return how many blocks a single text makes; 0 where it is too short for an interval."""
    count = min(BLOCKS, len(text.encode()) // BLOCK)
    return count if count >= FEWEST else 0


def _sums(
    model: GPT, reads: Sequence[Read], where: tuple[int, int], precision: str, blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nats of each document, or block of the only one, and the bytes that they are for."""
    nats: list[np.ndarray] = []
    with scoring(model, precision) as ready:
        for some in _portions(reads):
            nats += token_nats(ready, some, *where)
    if blocks:
        return _in_blocks(reads[0], nats[0], byte_lengths(tokenizer_of(model)), blocks)
    return np.array([each.sum() for each in nats]), np.array([float(read.counted_bytes) for read in reads])


def _portions(reads: Sequence[Read]) -> Iterator[list[Read]]:
    """Yield documents in portions, so that only the windows of a few are laid out at a time."""
    portion: list[Read] = []
    for read in reads:
        if portion and sum(each.counted for each in portion) + read.counted > TOGETHER:
            yield portion
            portion = []
        portion.append(read)
    yield portion


def _in_blocks(read: Read, nats: np.ndarray, sizes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nats and bytes of ``count`` blocks of equal bytes; a token belongs to the block that it begins in."""
    of_tokens = sizes[read.ids]
    begins = (np.cumsum(of_tokens) - of_tokens)[len(read.ids) - read.counted :]
    block = np.minimum(begins * count // read.text_bytes, count - 1)
    edges = np.arange(count + 1) * read.text_bytes // count
    in_bytes = np.diff(edges).astype(np.float64)
    in_bytes[0] -= read.first_bytes
    return np.bincount(block, nats, count), in_bytes


def _notes(read: Sequence[Read], left_out: int) -> tuple[str, ...]:
    found = []
    if left_out:
        found.append(f"{left_out} documents have no token to predict for one of the models and were left out")
    if len({bool(one.start) for one in read}) > 1:
        found.append(
            "one tokenizer has a token that begins a text; the other has none, so that the first token of each "
            "document is not counted for it"
        )
    return tuple(found)
