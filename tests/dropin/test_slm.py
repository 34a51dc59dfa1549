"""The small language model in five files."""

import importlib
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import gptwright as gw
from gptwright.dropin import slm
from gptwright.dropin.slm import attention, config, gpt, model_utils, transformer
from gptwright.dropin.slm.model_utils import freeze, load_checkpoint, save_checkpoint, unfreeze

from .laws import (
    assert_cached_is_uncached,
    assert_causal,
    assert_drops_in_training_only,
    assert_reads_the_end_of_a_long_prompt,
)

SMALL = config.GPTConfig(vocab_size=50, block_size=16, n_layer=2, n_head=4, n_embd=32, dropout=0.1)
X = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))


def model(seed=0, **changes):
    torch.manual_seed(seed)
    return gpt.GPT({**SMALL.to_dict(), **changes})


def test_the_five_files_are_members_and_modules():
    for name in ("config", "attention", "transformer", "gpt", "model_utils"):
        assert getattr(slm, name) is importlib.import_module(f"gptwright.dropin.slm.{name}")


def test_settings_may_be_given_in_any_form():
    words = SMALL.to_dict()
    assert gpt.GPT(words).config == gpt.GPT(SimpleNamespace(**words)).config == gpt.GPT(SMALL).config
    with pytest.raises(gw.ConfigError) as error:
        config.GPTConfig(vocab_size=50, block_size=16, n_layer=2, n_head=4, n_embed=32)
    assert str(error.value).splitlines()[1:] == [
        "  n_embd: missing; give it a value (Embedding dimension)",
        "  n_embed: unknown key; did you mean 'n_embd'?",
    ]
    with pytest.raises(gw.ConfigError) as error:
        model(n_head=5)
    assert str(error.value) == "n_head: n_head 5 must divide n_embd 32; use 2 or 4 heads"


def test_laws(ids):
    assert_causal(model(), ids(2, 8))
    assert_cached_is_uncached(model(), ids(2, 5))
    assert_drops_in_training_only(model(), ids(2, 8))
    assert_reads_the_end_of_a_long_prompt(model(), ids(1, 20))


def test_attention_is_the_formula():
    q, k, v = torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    scores = (q @ k.mT / math.sqrt(8)).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(attention.scaled_dot_product_attention(q, k, v), scores.softmax(-1) @ v)
    layer = attention.MultiHeadAttention(SMALL)
    q, k, v = (proj(X).unflatten(-1, (4, 8)).transpose(1, 2) for proj in (layer.q_proj, layer.k_proj, layer.v_proj))
    mixed = attention.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(X), layer.o_proj(mixed))


def test_the_block_adds_each_sublayer_of_the_normed_input():
    block = transformer.TransformerBlock(SMALL).eval()
    middle = block.attention(block.attention_norm(X), gw.Sequence.plain(2, 7)) + X
    expected = block.feed_forward(block.feed_forward_norm(middle), None) + middle
    torch.testing.assert_close(block(X), expected)
    layer = transformer.FeedForward(SMALL)
    torch.testing.assert_close(layer(X), layer.down_proj(F.relu(layer.up_proj(X))))


def test_the_block_and_its_parts_are_those_of_the_model():
    whole, block = model().eval(), transformer.TransformerBlock(SMALL).eval()
    part, feed_forward = attention.MultiHeadAttention(SMALL), transformer.FeedForward(SMALL)
    block.load_state_dict(whole.layers[1].state_dict())
    part.load_state_dict(whole.layers[1].attention.state_dict())
    feed_forward.load_state_dict(whole.layers[1].feed_forward.state_dict())
    seq = gw.Sequence.padded(torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7]).bool())
    torch.testing.assert_close(block(X, seq), whole.layers[1](X, seq))
    torch.testing.assert_close(part(X, seq), whole.layers[1].attention(X, seq))
    torch.testing.assert_close(feed_forward(X), whole.layers[1].feed_forward(X, seq))


def test_weights_begin_as_named():
    one = model(n_embd=128)
    model_utils.init_weights(one, "xavier_uniform")
    weight = one.layers[0].feed_forward.up_proj.weight
    bound = math.sqrt(6 / sum(weight.shape))
    assert 0.95 * bound < weight.abs().max() <= bound
    model_utils.init_weights(one, "xavier_normal")
    assert abs(weight.std() / math.sqrt(2 / sum(weight.shape)) - 1) < 0.05
    model_utils.init_weights(one, "normal", std=0.1, overrides={"*.attention.*": "zeros"})
    assert abs(weight.std() / 0.1 - 1) < 0.05
    assert one.layers[0].attention.q_proj.weight.abs().max() == 0
    with pytest.raises(gw.ConfigError, match=r"init.strategy: must be one of 'gpt2', 'normal'.*, but is 'xavier'"):
        model_utils.init_weights(one, "xavier")


def test_what_is_frozen_does_not_train(ids):
    one = model(dropout=0.0)
    table = freeze(one, "token_embedding", "layers.0")
    assert "frozen" in str(table)
    before = {name: p.detach().clone() for name, p in one.named_parameters()}
    optimizer = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=0.5)
    one(ids(2, 8), ids(2, 8))[1].backward()
    optimizer.step()
    moved = {name for name, p in one.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if not name.startswith(("token_embedding", "layers.0."))}


def test_everything_is_frozen_and_unfrozen_without_names():
    one = model()
    freeze(one)
    assert not any(p.requires_grad for p in one.parameters())
    unfreeze(one, "lm_head")
    assert [name for name, p in one.named_parameters() if p.requires_grad] == ["lm_head.weight"]
    unfreeze(one)
    assert all(p.requires_grad for p in one.parameters())
    with pytest.raises(gw.ConfigError, match=r"'layer\.0', which matches no parameter"):
        freeze(one, "layer.0")


def test_a_checkpoint_gives_the_model_back(ids, tmp_path):
    one, path = model().eval(), tmp_path / "model.safetensors"
    save_checkpoint(one, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    again = load_checkpoint(path).eval()
    assert again.words == one.words
    assert torch.equal(again(ids(2, 8)), one(ids(2, 8)))
    other = model(seed=1).eval()
    assert load_checkpoint(path, other) is other
    assert torch.equal(other(ids(2, 8)), one(ids(2, 8)))


def test_checkpoints_that_cannot_be_used_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(gw.CheckpointError, match="cannot be loaded: No such file"):
        load_checkpoint(path)
    save_checkpoint(model(), path)
    with pytest.raises(
        gw.CheckpointError, match="does not fit the model: n_embd 32 there and 64 here; load it without"
    ):
        load_checkpoint(path, model(n_embd=64))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(gw.CheckpointError, match=r"cannot be loaded: .*; give a file that save_checkpoint wrote"):
        load_checkpoint(path)
    torch.save(model().state_dict(), path)
    with pytest.raises(gw.CheckpointError, match="cannot be loaded"):
        load_checkpoint(path)
    with pytest.raises(gw.CheckpointError, match=r"could not be written: .*; choose another place"):
        save_checkpoint(model(), tmp_path / "nowhere" / "model.safetensors")


def test_a_device_is_chosen():
    assert model_utils.get_device("cpu") == torch.device("cpu")
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert model_utils.get_device() == there
    with pytest.raises(gw.ConfigError, match="device 'tpu9' is none that torch knows"):
        model_utils.get_device("tpu9")


def test_inference_gives_probabilities_and_leaves_the_mode_alone(ids):
    one = model()
    found = model_utils.next_token_probabilities(one, ids(2, 8))
    assert one.training
    torch.testing.assert_close(found.sum(-1), torch.ones(2))
    torch.testing.assert_close(found, one.eval()(ids(2, 8))[:, -1].softmax(-1).detach())
    model_utils.next_token_probabilities(one, ids(2, 8))
    assert not one.training
