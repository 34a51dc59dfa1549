"""Memory that has run out: told apart from other errors, and what is proposed."""

from pathlib import Path

import pytest
import torch

import gptwright as gw
from gptwright.train.exhausted import explained

from .. import tiny


def config(**train):
    return gw.RunConfig.from_dict(
        tiny.settings(Path("book.txt"), {f"train.{key}": value for key, value in train.items()})
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
    ids=repr,
)
def test_every_way_in_which_memory_is_refused_is_known(error):
    words = "memory ran out with micro-batches of 4 sequences of 16 tokens"
    with pytest.raises(gw.GptwrightError, match=words), explained(config()):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), explained(config()):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("train", "ways"),
    [
        ({}, "try train.micro_batch=2 or train.gradient_checkpointing=block"),
        ({"tokens_per_step": 96, "micro_batch": 6}, "try train.micro_batch=3 or train.gradient_checkpointing=block"),
        ({"micro_batch": 2, "gradient_checkpointing": "block"}, "try train.micro_batch=1 (gptwright count"),
        ({"micro_batch": 1, "gradient_checkpointing": "block"}, "try a smaller model.max_seq_len or model (gptwright"),
    ],
)
def test_what_is_proposed_has_not_been_tried(train, ways):
    with pytest.raises(gw.GptwrightError) as said, explained(config(**train)):
        raise MemoryError
    assert ways in str(said.value)
