"""The GPT of 124 million parameters under its published names."""

import pytest
import torch

import gptwright as gw
from gptwright.dropin.gpt124m import GPT_CONFIG_124M, GPTModel

from .laws import (
    assert_cached_is_uncached,
    assert_causal,
    assert_drops_in_training_only,
    assert_reads_the_end_of_a_long_prompt,
)

PUBLISHED_USAGE = """
import torch
from gpt_model import GPTModel, GPT_CONFIG_124M

# Initialize the model
model = GPTModel(GPT_CONFIG_124M)

# Example input (batch_size, sequence_length)
input_ids = torch.randint(0, GPT_CONFIG_124M["vocab_size"], (2, 256))

# Forward pass
logits = model(input_ids)

print(logits.shape) # Output logits shape: (2, 256, 50257)
"""
SMALL = {**GPT_CONFIG_124M, "vocab_size": 50, "context_length": 16, "emb_dim": 32, "n_heads": 4, "n_layers": 2}


def model(seed=0, **changes):
    torch.manual_seed(seed)
    return GPTModel({**SMALL, **changes})


def test_the_published_usage_runs_as_written(typed):
    changed = {"from gpt_model import": "from gptwright.dropin.gpt124m import"}
    names, printed = typed(PUBLISHED_USAGE, changed)
    assert printed == "torch.Size([2, 256, 50257])\n"
    one = names["model"]
    assert one.num_params() == one.config.num_params() == 163_009_536
    assert one.num_params() - one.lm_head.weight.numel() == 124_412_160


def test_the_dictionary_is_the_published_one():
    assert GPT_CONFIG_124M == {
        "vocab_size": 50257,
        "context_length": 1024,
        "emb_dim": 768,
        "n_heads": 12,
        "n_layers": 12,
        "drop_rate": 0.1,
        "qkv_bias": False,
    }


def test_it_is_what_the_text_says():
    one = model()
    config = one.config
    assert (config.wiring, config.norm.type, config.position.type) == ("pre", "layer_norm", "learned")
    assert config.feed_forward.activation == "gelu_tanh"
    assert one.lm_head.weight is not one.token_embedding.weight
    assert one.layers[0].attention.q_proj.bias is None
    assert model(qkv_bias=True).layers[0].attention.q_proj.bias is not None


def test_laws(ids):
    assert_causal(model(), ids(2, 8))
    assert_cached_is_uncached(model(), ids(2, 5))
    assert_drops_in_training_only(model(), ids(2, 8))
    assert_reads_the_end_of_a_long_prompt(model(), ids(1, 20))


def test_embeddings_and_attention_weights_are_dropped_and_nothing_else(ids):
    one = model(drop_rate=0.5)
    dropping = [name for name, part in one.named_modules() if isinstance(part, torch.nn.Dropout) and part.p]
    assert dropping == ["dropout"]
    assert one.layers[0].attention.scoring.dropout == 0.5
    one.dropout.p = 0.0
    assert_drops_in_training_only(one, ids(2, 8))  # by attention weights alone
    one.train()
    for layer in one.layers:
        layer.attention.eval()
    assert torch.equal(one(ids(2, 8)), one.eval()(ids(2, 8)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"emb_dim": 100, "n_heads": 12}, "n_heads: n_heads 12 must divide emb_dim 100; use 5 or 10 heads"),
        ({"n_embd": 32}, "n_embd: unknown key; here it is called 'emb_dim'"),
        ({"emb_dm": 32}, "emb_dm: unknown key; did you mean 'emb_dim'?"),
        ({"drop_rate": 1.0}, "drop_rate: must be less than 1.0, but is 1.0"),
    ],
)
def test_mistakes_are_named(changes, sentence):
    with pytest.raises(gw.ConfigError) as error:
        model(**changes)
    assert str(error.value) == sentence


def test_a_missing_key_is_named():
    with pytest.raises(gw.ConfigError) as error:
        GPTModel({key: value for key, value in SMALL.items() if key != "emb_dim"})
    assert str(error.value) == "emb_dim: missing; give it a value (Embedding dimension)"
