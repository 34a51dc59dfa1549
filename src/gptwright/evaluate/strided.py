"""Likelihood of any text, with windows that overlap, so that no token has to do with little before it.

Shapes: n tokens counted.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gptwright.errors import ConfigError, DataError
from gptwright.evaluate.scoring import Row, Totals, score_rows, scoring
from gptwright.generate.writer import tokenizer_of
from gptwright.model.gpt import GPT
from gptwright.model.score import Score, Sums
from gptwright.tokenizer.base import Tokenizer


class Read(NamedTuple):
    """A text as a model reads it."""

    ids: np.ndarray
    """Its token ids, int64."""
    start: tuple[int, ...]
    """What stands before them, so that the first is predicted too; empty where the tokenizer has no such token."""
    text_bytes: int
    """UTF-8 bytes of the text."""
    first_bytes: int
    """Those of its first token, where that is not predicted."""

    @property
    def counted(self) -> int:
        """Tokens that are predicted: all, or all but the first."""
        return max(0, len(self.ids) - (0 if self.start else 1))

    @property
    def counted_bytes(self) -> int:
        """Bytes of the tokens that are predicted."""
        return self.text_bytes - self.first_bytes


def score_text(
    model: GPT, text: str, *, stride: int | None = None, context: int | None = None, precision: str = "fp32"
) -> Score:
    """Score ``model``, which `gptwright.load` returned, on ``text``: each token is predicted once.

    Windows of ``context`` tokens move on by ``stride``, and each counts the tokens that the one before it did not
    reach. So every token but those at the beginning has at least ``context - stride + 1`` tokens before it; a stride
    of 1 gives each all there is room for, at a cost of one window a token, and a stride of ``context`` is the cheapest.

    The first token is predicted after the token that begins a text (`first_after`); where the tokenizer has none,
    it is not counted, and neither are its bytes.

    Args:
        model: the model, with its tokenizer.
        text: any text.
        stride: tokens from one window to the next, by default half of ``context``.
        context: tokens that a window reads, by default the model's ``max_seq_len``.
        precision: ``fp32`` is exact, ``bf16`` faster on some machines.

    Returns:
        Nats a token, bits a byte of UTF-8, perplexity and the number of tokens predicted.

    Raises:
        DataError: the text has no token to predict.
        ConfigError: stride or context do not fit.
    """
    context, stride = window(model, context, stride)
    read = read_text(tokenizer_of(model), text)
    if not read.counted:
        why = "is a single token, and nothing stands before it to predict it from" if len(read.ids) else "is empty"
        raise DataError(f"the text {why}: there is nothing to score; give a longer one")
    with scoring(model, precision) as ready:
        nats = token_nats(ready, [read], context, stride)[0]
    return Score.of(*Sums(float(nats.sum()), len(nats), read.counted_bytes))


def window(model: GPT, context: int | None, stride: int | None) -> tuple[int, int]:
    """Return the context and stride that are meant.

    Raises:
        ConfigError: one is below 1, the stride is longer than the context, or the model has no so long context.
    """
    longest = model.config.max_seq_len
    limit = model.config.position.limit(model.config.context(0))
    context = longest if context is None else context
    stride = max(1, context // 2) if stride is None else stride
    if context < 1 or stride < 1:
        raise ConfigError(f"context is {context} and stride {stride}, and both must be at least 1 token")
    if limit is not None and context > limit:
        raise ConfigError(
            f"context is {context} tokens, and {model.config.position.type} positions end at {limit}; ask for at most "
            f"{limit}"
        )
    if stride > context:
        raise ConfigError(
            f"stride is {stride} and context {context}: tokens between two windows would never be predicted; use a "
            f"stride of at most {context}"
        )
    return context, stride


def first_after(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids after which the first token of a text is predicted; empty where a text just begins.

    They are those that every text begins with, or else the token that ends the text before.
    """
    if tokenizer.prefix_ids:
        return tokenizer.prefix_ids
    return () if tokenizer.eot_id is None else (tokenizer.eot_id,)


def read_text(tokenizer: Tokenizer, text: str) -> Read:
    """Return ``text`` as ids.

    Raises:
        DataError: it holds something that the tokenizer cannot say.
    """
    ids, start = tokenizer.encode(text), first_after(tokenizer)
    first_bytes = 0 if start or not len(ids) else len(tokenizer.token_bytes(int(ids[0])))
    return Read(ids, start, len(text.encode()), first_bytes)


def token_nats(model: GPT, texts: Sequence[Read], context: int, stride: int) -> list[np.ndarray]:
    """Return minus the log-probability of each token counted, float64 (n,), for every text; inside `scoring`."""
    sizes = np.array([read.counted for read in texts], dtype=np.int64)
    begins = np.cumsum(sizes) - sizes
    totals = Totals(int(sizes.sum()))
    rows = [row for read, begin in zip(texts, begins, strict=True) for row in _rows(read, int(begin), context, stride)]
    score_rows(model, rows, totals)
    return [-totals.logprobs[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)]


def _rows(read: Read, begin: int, context: int, stride: int) -> Iterator[Row]:
    """Yield the windows of a text, the slots of its tokens counted from ``begin``."""
    ids = [*read.start, *read.ids.tolist()]
    skipped = len(ids) - read.counted  # ids at the beginning that are not predicted
    done = 0
    while done < read.counted:
        reach = max(1, context - skipped + 1) if not done else stride
        stop = min(read.counted, done + reach)
        end = skipped + stop  # the window predicts up to this id, and reads what stands before it
        yield Row(
            ids[max(0, end - 1 - context) : end - 1], ids[skipped + done : end], range(begin + done, begin + stop)
        )
        done = stop
