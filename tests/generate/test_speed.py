"""What is measured, on a clock that ticks once a look; no test depends on how fast anything is."""

import itertools

import pytest
import torch

from gptwright.errors import GptwrightError
from gptwright.generate.bandwidth import read_bandwidth
from gptwright.generate.speed import Spread, computing_with, decode_speed, prepared, state_bytes, weight_bytes
from gptwright.model.config import ModelConfig
from gptwright.model.gpt import GPT


def make(**changes) -> GPT:
    settings = {"vocab_size": 50, "d_model": 16, "n_layers": 2, "max_seq_len": 32}
    attention = {"type": "softmax", "n_heads": 2}
    return GPT(ModelConfig.from_dict({**settings, "attention": attention, **changes})).eval()


def measure(model: GPT, rows: int = 1, prompt_tokens: int = 8, new_tokens: int = 12):
    clock = itertools.count().__next__
    return decode_speed(
        model, prompt_tokens=prompt_tokens, new_tokens=new_tokens, rows=rows, bandwidth=1e6, clock=clock
    )


@pytest.mark.parametrize("rows", [1, 4])
def test_a_step_gives_each_text_a_token(rows):
    speed = measure(make(), rows)
    assert speed.step == speed.first_token == Spread(1, 1, 1)
    assert speed.tokens_per_second == rows
    assert speed.bytes_per_step == speed.weight_bytes + speed.state_bytes
    assert speed.fraction == pytest.approx(speed.bytes_per_step / 1e6)
    assert speed.overhead == pytest.approx(1 - speed.bytes_per_step / 1e6)
    assert speed.to_dict()["overhead"] == speed.overhead


def test_a_tied_table_is_read_once_by_the_head():
    model = make(tie_embeddings=True, position="rotary")
    assert weight_bytes(model) == 4 * model.num_params()


def test_of_tables_that_are_looked_up_one_row_counts():
    model = make(tie_embeddings=False, position="learned")
    others = model.num_params() - 50 * 16 - 32 * 16
    assert weight_bytes(model) == 4 * (others + 16 + 16)
    assert weight_bytes(model, rows=3) == 4 * (others + 3 * 16 + 3 * 16)


def test_of_experts_those_that_are_visited_count():
    moe = {"type": "moe", "n_experts": 8, "top_k": 2, "d_ff": 32}
    model = make(tie_embeddings=True, position="rotary", feed_forward=moe)
    inactive = 2 * 6 * 3 * 16 * 32  # layers, experts, matrices
    assert weight_bytes(model) == 4 * (model.num_params() - inactive)
    assert weight_bytes(model) < weight_bytes(model, rows=2) < weight_bytes(model, rows=8) < 4 * model.num_params()


def test_precision_halves_the_bytes():
    model = make()
    half = prepared(model, "bf16")
    assert weight_bytes(half) * 2 == weight_bytes(model)
    assert state_bytes(half, 8) * 2 == state_bytes(model, 8) == 2 * 2 * 16 * 4 * 8
    assert prepared(model, "fp32") is model
    assert prepared(model, None) is model


def test_bandwidth_is_measured_once():
    found = read_bandwidth(size=1 << 20)
    assert found > 0
    assert read_bandwidth(size=1 << 20) is found


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with computing_with(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens is 0 and must be at least 1"),
        ({"new_tokens": 1}, "new_tokens is 1 and must be at least 2"),
        ({"rows": 0}, "rows is 0 and must be at least 1"),
        ({"prompt_tokens": 30}, "30 prompt tokens and 12 new ones are more than the 32 positions"),
    ],
)
def test_numbers_without_meaning(numbers, sentence):
    with pytest.raises(GptwrightError, match=sentence):
        measure(make(position="learned"), **numbers)


def test_a_precision_that_is_none():
    with pytest.raises(GptwrightError, match="precision is 'fp8' and must be one of fp32, bf16"):
        prepared(make(), "fp8")  # pyright: ignore[reportArgumentType]
