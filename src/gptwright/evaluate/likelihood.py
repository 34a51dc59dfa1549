"""Likelihood of held-out text under a trained model."""

from collections.abc import Iterator
from typing import Any

import torch

from gptwright.data.contracts import Progress, SplitName
from gptwright.data.prepare import prepare
from gptwright.data.sampler import validation_batches
from gptwright.data.shards import Prepared, TokenStream
from gptwright.errors import ConfigError, DataError
from gptwright.model.batch import Batch
from gptwright.model.gpt import GPT
from gptwright.model.score import Score, summed_loss
from gptwright.ops.precision import choose
from gptwright.tokenizer.base import Tokenizer
from gptwright.tokenizer.load import load as load_tokenizer
from gptwright.tokenizer.load import make_tokenizer

BATCH_TOKENS = 16384
"""Tokens worked on at once."""


def evaluate(
    model: GPT, *, data: dict[str, Any] | None = None, split: SplitName = "val", progress: Progress | None = None
) -> Score:
    """Score ``model``, which `gptwright.load` returned, on the whole validation split of its run's data.

    It computes in the precision that the run trained in, so it repeats the run's own validation.

    Args:
        model: a loaded model; its ``settings`` name the data and its ``tokenizer`` reads it.
        data: settings of other data to score on, for example ``{"source": "other.txt"}``; by default the run's own.
        split: ``val``, or ``train`` to see how much was memorised.
        progress: called while text is prepared.

    Returns:
        Loss in nats a token, bits a byte, perplexity and the number of tokens predicted.
    """
    if split not in ("train", "val"):
        raise ConfigError(f"'{split}' is no split; use 'val' or 'train'")
    prepared = _prepared(model, data, progress)
    stream, counts = prepared.split(split), prepared.train if split == "train" else prepared.val
    precision = model.precision or choose("fp32", model.device)
    with precision.scope():
        scored = model if precision.compute_dtype == torch.float32 else model.twin(precision.compute_dtype)
        return score_split(scored, stream, counts.bytes, model.tokenizer)


def score_split(model: GPT, stream: TokenStream, text_bytes: int, tokenizer: Tokenizer) -> Score:
    """Score ``model``, as it is, on a whole split of ``text_bytes`` bytes that ``tokenizer`` encoded."""
    nats, tokens = summed_loss(model, _batches(model, stream))
    first = len(tokenizer.token_bytes(int(stream.read(0, 1)[0])))  # predicted by nothing
    return Score.of(nats, tokens, text_bytes - first)


def _prepared(model: GPT, data: dict[str, Any] | None, progress: Progress | None) -> Prepared:
    settings = model.settings
    if settings is None or settings.data is None or model.tokenizer is None:
        raise ConfigError("this model has no run behind it; load one with gptwright.load('runs/NAME')")
    config = settings.data
    if data is not None:
        config = type(config).from_dict({**config.to_dict(), **data})
        return prepare(config, make_tokenizer=make_tokenizer, tokenizer=model.tokenizer, progress=progress)
    prepared = prepare(config, make_tokenizer=make_tokenizer, progress=progress)
    if load_tokenizer(prepared.tokenizer_folder, trust_code=True).fingerprint != model.tokenizer.fingerprint:
        raise DataError(
            f"data.source {config.source} has changed since this model was trained, and its tokenizer with it; restore "
            "the text, or say which other text to score on (data in Python, data.source=FILE on the command line)"
        )
    return prepared


def _batches(model: GPT, stream: TokenStream) -> Iterator[Batch]:
    context = model.config.max_seq_len
    for inputs, targets in validation_batches(stream, context, max(1, BATCH_TOKENS // context)):
        yield Batch(torch.from_numpy(inputs).to(model.device), torch.from_numpy(targets).to(model.device))
