"""Memory that has run out, as a sentence that says what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gptwright.errors import GptwrightError
from gptwright.train.config import RunConfig
from gptwright.train.step import micro_batch_rows

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")


@contextmanager
def explained(config: RunConfig) -> Iterator[None]:
    """Turn an allocation that fails inside the block into a sentence.

    Raises:
        GptwrightError: memory ran out; names the settings that lower its use.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise GptwrightError(_sentence(config)) from error


def ran_out(error: BaseException) -> bool:
    """Say whether ``error`` means that memory could not be had."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(sign in str(error).lower() for sign in _SIGNS)


def _sentence(config: RunConfig) -> str:
    train, context = config.train, config.model.max_seq_len
    rows, ways = micro_batch_rows(train, context), []
    if rows > 1:
        ways.append(f"train.micro_batch={max(n for n in range(1, rows) if config.rows_per_step % n == 0)}")
    if train.gradient_checkpointing != "block":
        ways.append("train.gradient_checkpointing=block")
    if not ways:
        ways.append("a smaller model.max_seq_len or model")
    return (
        f"memory ran out with micro-batches of {rows} sequences of {context} tokens; try {' or '.join(ways)} "
        "(gptwright count foresees what is needed), with --resume where checkpoints were saved"
    )
