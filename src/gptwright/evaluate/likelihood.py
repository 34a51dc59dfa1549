"""Likelihood of held-out text under a trained model."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from gptwright.data.config import DataConfig
from gptwright.data.contracts import Progress, SplitName
from gptwright.data.packing import Packing, Rows
from gptwright.data.prepare import prepare
from gptwright.data.rows import open_packing
from gptwright.data.shards import Prepared
from gptwright.errors import ConfigError, DataError
from gptwright.model.batch import Batch
from gptwright.model.gpt import GPT
from gptwright.model.score import Score, Sums, summed_loss
from gptwright.ops.loss import IGNORE
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
        Loss in nats a token, bits a byte, perplexity and the number of tokens predicted; of a mixture, over all parts
        together, and in ``parts`` of each.
    """
    if split not in ("train", "val"):
        raise ConfigError(f"'{split}' is no split; use 'val' or 'train'")
    config, prepared = _prepared(model, data, progress)
    precision = model.precision or choose("fp32", model.device)
    with precision.scope():
        scored = model if precision.compute_dtype == torch.float32 else model.twin(precision.compute_dtype)
        return score_split(scored, config, prepared, model.tokenizer, split)


def score_split(
    model: GPT, config: DataConfig, prepared: Prepared, tokenizer: Tokenizer, split: SplitName = "val"
) -> Score:
    """Score ``model``, as it is, on a whole split that ``tokenizer`` encoded, all parts of it."""
    context, sizes = model.config.max_seq_len, byte_lengths(tokenizer)
    packings = [open_packing(config, prepared, split, context, part) for part in range(len(prepared.names))]
    return score_parts(model, dict(zip(prepared.names, packings, strict=True)), sizes)


def score_parts(model: GPT, packings: dict[str, Packing], sizes: np.ndarray) -> Score:
    """Score ``model`` on each of the packings, and on all together; ``sizes`` are those of `byte_lengths`."""
    found = {name: _summed(model, packing, sizes) for name, packing in packings.items()}
    total = sum(found.values(), Sums())
    parts = {name: Score.of(*sums) for name, sums in found.items()} if len(found) > 1 else {}
    return Score.of(*total, parts=parts)


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """Return how many bytes of text each id stands for, int64 (V,); those around a text stand for none."""
    around = {*tokenizer.end_ids, *tokenizer.prefix_ids}
    sizes = [0 if id in around else len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)]
    return np.array(sizes, dtype=np.int64)


def as_batch(rows: Rows, device: torch.device) -> Batch:
    """Return rows as tensors on ``device``."""
    inputs, targets = (torch.from_numpy(field).to(device) for field in (rows.inputs, rows.targets))
    return Batch(inputs, targets, None if rows.segments is None else torch.from_numpy(rows.segments).to(device))


def _summed(model: GPT, packing: Packing, sizes: np.ndarray) -> Sums:
    text_bytes = 0

    def batches() -> Iterator[Batch]:
        nonlocal text_bytes
        context = model.config.max_seq_len
        for rows in packing.in_order(max(1, BATCH_TOKENS // context)):
            text_bytes += int(sizes[rows.targets[rows.targets != IGNORE]].sum())
            yield as_batch(rows, model.device)

    nats, tokens = summed_loss(model, batches())
    return Sums(nats, tokens, text_bytes)


def _prepared(model: GPT, data: dict[str, Any] | None, progress: Progress | None) -> tuple[DataConfig, Prepared]:
    settings = model.settings
    config = None if settings is None else settings.data
    if model.tokenizer is None or (config is None and data is None):
        raise ConfigError(
            "this model has no run behind it; load one with gptwright.load('runs/NAME')"
            if model.tokenizer is None
            else "this model was not trained here, so there is no data of its own; say what to score it on (data in "
            "Python, --data SOURCE or --text FILE on the command line)"
        )
    if data is not None:
        config = DataConfig.from_dict(replaced({} if config is None else config.to_dict(), data))
        return config, prepare(config, make_tokenizer=make_tokenizer, tokenizer=model.tokenizer, progress=progress)
    assert config is not None
    if getattr(settings, "init_from", None) is not None:  # it learnt with the tokenizer of the run it came from
        return config, prepare(config, make_tokenizer=make_tokenizer, tokenizer=model.tokenizer, progress=progress)
    prepared = prepare(config, make_tokenizer=make_tokenizer, progress=progress)
    if load_tokenizer(prepared.tokenizer_folder, trust_code=True).fingerprint != model.tokenizer.fingerprint:
        raise DataError(
            f"data.source {config.described} has changed since this model was trained, and its tokenizer with it; "
            "restore the text, or say which other text to score on (data in Python, data.source=FILE on the command "
            "line)"
        )
    return config, prepared


def replaced(config: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return settings of data with ``data`` in them; a source takes the place of a mixture, and the other way round."""
    other = {"source": "mixture", "mixture": "source"}
    return {**config, **{other[key]: None for key in data if key in other}, **data}
