"""Small models: ``build(position="rotary")``."""

import pytest
import torch

import gptwright as gw

BASE = {
    "vocab_size": 13,
    "d_model": 8,
    "n_layers": 2,
    "max_seq_len": 10,
    "attention": {"type": "softmax", "n_heads": 2},
    "init": {"std": 0.3},
}


@pytest.fixture
def settings():
    """Settings of a model as plain data: ``settings(d_model=16)``."""
    return lambda **changes: {**BASE, **changes}


@pytest.fixture
def build(settings):
    def build(**changes) -> gw.GPT:
        torch.manual_seed(0)
        return gw.GPT(gw.ModelConfig.from_dict(settings(**changes))).eval()

    return build


@pytest.fixture
def ids():
    return torch.randint(13, (2, 9), generator=torch.Generator().manual_seed(1))
