"""The modular design under its published names."""

import sys
from collections.abc import Mapping
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML

import gptwright as gw
from gptwright.dropin.modular import GPTConfig, GPTModel, load_config
from gptwright.interop.names import COMPONENTS

from .laws import (
    assert_cached_is_uncached,
    assert_causal,
    assert_drops_in_training_only,
    assert_reads_the_end_of_a_long_prompt,
)

PUBLISHED_USAGE = """
from src.model.gpt import GPTModel
from types import SimpleNamespace

# Load configuration
config = SimpleNamespace(
    n_embd=256,
    num_heads=8,
    n_layers=6,
    vocab_size=1000,
    block_size=256,
    dropout=0.1,
    attention_type='flash_attention',
    attention_class='FlashAttention',
    ffn_type='ff_swiglu',
    ffn_class='GatedFeedForward',
    norm_type='rmsnorm',
    norm_class='RMSNorm'
)

# Create model
model = GPTModel(config)
print(f"Model parameters: {model.get_num_params():,}")

# Forward pass
input_ids = torch.randint(0, config.vocab_size, (1, 10))
logits = model(input_ids)
print(f"Output shape: {logits.shape}")  # [1, 10, vocab_size]
"""
PUBLISHED_YAML = """
# Model dimensions
n_embd: 256          # Embedding dimension
num_heads: 8         # Number of attention heads
n_layers: 6          # Number of transformer blocks
vocab_size: 64       # Vocabulary size (updated dynamically)
block_size: 256      # Maximum sequence length
dropout: 0.1         # Dropout rate

# Component selection
attention_type: flash_attention
attention_class: FlashAttention

ffn_type: ff_swiglu
ffn_class: GatedFeedForward

norm_type: rmsnorm
norm_class: RMSNorm

pos_type: sinusoidal
"""
OWN = """
import torch
import gptwright as gw
from torch import nn


class MyAttention(gw.Attention):
    class Config(gw.Attention.Config):
        gain: float = 1.0
        '''Factor on the mean.'''

    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.o_proj = nn.Linear(ctx.d_model, ctx.d_model)

    def forward(self, x, seq, state=None):
        seen = seq.visible().to(x.dtype)
        return self.config.gain * self.o_proj(seen @ x / seen.sum(-1, keepdim=True))


class MyFeedForward(gw.FeedForward):
    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.down_proj = nn.Linear(ctx.d_model, ctx.d_model)

    def forward(self, x, seq):
        return self.down_proj(x.relu())


class MyNorm(gw.Norm):
    def forward(self, x):
        return x / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)


class Stranger(nn.Module):
    pass
"""
SMALL = {"n_embd": 32, "num_heads": 4, "n_layers": 2, "vocab_size": 50, "block_size": 16}
PARTS = [
    {f"{kind}_{word}": value for kind, (file, (name, _)) in zip(COMPONENTS, chosen, strict=True)
     for word, value in (("type", file), ("class", name))}
    for chosen in product(*(menu.items() for menu in COMPONENTS.values()))
]  # fmt: skip


def model(seed=0, **changes):
    torch.manual_seed(seed)
    return GPTModel(SimpleNamespace(**{**SMALL, **changes}))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of one's own, in the folder that one works in."""
    (tmp_path / "my_module.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_module", None)


def test_the_published_usage_runs_as_written(typed):
    changed = {"from src.model.gpt import GPTModel": "from gptwright.dropin.modular import GPTModel"}
    names, printed = typed(PUBLISHED_USAGE, changed, torch=torch)
    assert printed == "Model parameters: 5,324,032\nOutput shape: torch.Size([1, 10, 1000])\n"
    assert sum(p.numel() for p in names["model"].parameters()) == 5_324_032


@pytest.mark.parametrize("read", [YAML(typ="safe").load, lambda text: YAML().load(text)])
def test_the_published_yaml_builds_as_it_is(read, ids):
    data = read(PUBLISHED_YAML)
    assert isinstance(data, Mapping)
    one = GPTModel(SimpleNamespace(**data))
    assert one.config.position.type == "sinusoidal"
    assert (one.config.feed_forward.type, one.config.norm.type, one.config.dropout) == ("glu", "rms_norm", 0.1)
    assert one(ids(1, 10)).shape == (1, 10, 64)


def test_the_published_yaml_loads_from_a_file_and_takes_the_tokenizer_s_size(tmp_path):
    (tmp_path / "gpt.yaml").write_text(PUBLISHED_YAML)
    config = load_config(tmp_path / "gpt.yaml")
    assert (config.n_embd, config.attention_class) == (256, "FlashAttention")
    config.vocab_size = 70
    assert GPTModel(config).config.vocab_size == 70


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(v for k, v in parts.items() if k.endswith("_type")))
@pytest.mark.parametrize("pos_type", ["learned", "sinusoidal"])
def test_every_choice_of_parts_keeps_the_laws(ids, parts, pos_type):
    one = model(**parts, pos_type=pos_type)
    found = (one.config.attention.type, one.config.feed_forward.type, one.config.norm.type)
    assert found == tuple(COMPONENTS[kind][parts[f"{kind}_type"]][1] for kind in COMPONENTS)
    assert_causal(one, ids(2, 8))
    assert_cached_is_uncached(one, ids(2, 5))
    one(ids(2, 8), ids(2, 8))[1].backward()
    unvisited = [name for name, p in one.named_parameters() if p.grad is None]
    assert all("experts" in name for name in unvisited)
    assert all(torch.isfinite(p.grad).all() for p in one.parameters() if p.grad is not None)


def test_parts_may_be_named_by_their_file_alone():
    one = model(attention_type="local_window_attention", ffn_type="ff_moe", norm_type="scalenorm")
    assert (one.config.attention.window, one.config.feed_forward.n_experts, one.config.feed_forward.top_k) == (
        128,
        8,
        2,
    )
    assert model().config.attention.type == "softmax"
    assert model().config.feed_forward.type == "mlp"
    assert model().config.position.type == "learned"


def test_optional_keys_reach_the_parts():
    one = model(attention_type="local_window_attention", window_size=5, ffn_type="ff_moe", num_experts=3, bias=True)
    assert (one.config.attention.window, one.config.feed_forward.n_experts) == (5, 3)
    assert one.layers[0].attention.q_proj.bias is not None
    assert model(attention_args={"qk_norm": "rms_norm"}).config.attention.qk_norm.type == "rms_norm"
    assert model(norm_type="rmsnorm", norm_args={"eps": 1e-3}).config.norm.eps == 1e-3


def test_a_window_limits_what_is_seen(ids):
    one = model(attention_type="local_window_attention", window_size=3, n_layers=1).eval()
    whole = ids(1, 10)
    other = whole.clone()
    other[:, 0] = (whole[:, 0] + 1) % 50
    torch.testing.assert_close(one(whole)[:, 3:], one(other)[:, 3:])
    assert not torch.allclose(one(whole)[:, :3], one(other)[:, :3])


def test_classes_of_one_s_own_go_into_the_same_keys(ids, own):
    one = model(
        attention_type="my_module",
        attention_class="MyAttention",
        attention_args={"gain": 2.0},
        ffn_type="my_module",
        ffn_class="MyFeedForward",
        norm_type="my_module",
        norm_class="MyNorm",
    )
    assert type(one.layers[1].attention).__name__ == "MyAttention"
    assert one.layers[1].attention.config.gain == 2.0
    assert type(one.layers[1].feed_forward).__name__ == "MyFeedForward"
    assert type(one.final_norm).__name__ == "MyNorm"
    assert_causal(one, ids(2, 8))
    assert_cached_is_uncached(one, ids(2, 5))


def test_targets_add_the_cross_entropy(ids):
    one, tokens = model().eval(), ids(2, 9)
    logits, loss = one(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(logits, one(tokens[:, :-1]))
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
    some = tokens[:, 1:].clone()
    some[:, :4] = -100
    torch.testing.assert_close(
        one(tokens[:, :-1], targets=some)[1], F.cross_entropy(logits[:, 4:].flatten(0, 1), tokens[:, 5:].flatten())
    )


def test_experts_ask_for_balance_in_training_only(ids):
    one, tokens = model(ffn_type="ff_moe"), ids(2, 9)
    plain = gw.loss(one(tokens[:, :-1]), tokens[:, 1:])
    assert one(tokens[:, :-1], tokens[:, 1:])[1] > plain
    torch.testing.assert_close(one.eval()(tokens[:, :-1], tokens[:, 1:])[1], plain)


def test_what_is_predicted_at_padding_does_not_count(ids):
    one, tokens = model().eval(), ids(1, 7)
    padded = torch.cat((ids(1, 2), tokens), 1)
    mask = torch.arange(8)[None] >= 2
    found = one(padded[:, :-1], padded[:, 1:], padding_mask=mask)[1]
    torch.testing.assert_close(found, one(tokens[:, :-1], tokens[:, 1:])[1], atol=1e-5, rtol=1e-5)


def test_parameters_are_counted_with_and_without_position_embeddings():
    one = model()
    total = sum(p.numel() for p in one.parameters())
    assert one.get_num_params() == total == one.config.num_params()
    assert one.get_num_params(non_embedding=True) == total - 16 * 32
    waves = model(pos_type="sinusoidal")
    assert waves.get_num_params(non_embedding=True) == waves.get_num_params()
    assert model(tie_weights=True).get_num_params() == total - 50 * 32


def test_weights_begin_as_gpt_2_s():
    one = model(n_embd=128, ffn_type="ff_standard")
    for weight in (one.token_embedding.weight, one.lm_head.weight, one.layers[0].attention.q_proj.weight):
        assert 0.019 < weight.std() < 0.021
    assert (one.final_norm.weight == 1).all()


def test_generation(ids):
    one = model(dropout=0.1)
    assert_drops_in_training_only(one, ids(2, 8))
    for pos_type in ("learned", "sinusoidal"):
        assert_reads_the_end_of_a_long_prompt(model(pos_type=pos_type), ids(1, 40))
    assert one.generate(ids(2, 5), 30, 0.8, 3).shape == (2, 35)
    assert torch.equal(one.generate(ids(2, 5), 4, top_k=1), one.generate(ids(2, 5), 4, temperature=0))
    assert one.training is False
    mask = torch.arange(20)[None] >= 8
    assert one.generate(ids(1, 20), 2, padding_mask=mask, do_sample=False).shape == (1, 22)


def test_settings_may_be_a_dictionary_or_any_object():
    class Settings:
        n_embd, num_heads, n_layers = 32, 4, 2
        vocab_size, block_size = 50, 16

    for config in (SMALL, Settings(), Settings, GPTConfig(**SMALL)):
        assert GPTModel(config).config == model().config


KNOWN = "known: flash_attention, linear_attention, local_window_attention, or a module of your own with its class in"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_heads": 5}, "num_heads: num_heads 5 must divide n_embd 32; use 2 or 4 heads"),
        ({"dropuot": 0.1}, "dropuot: unknown key; did you mean 'dropout'?"),
        ({"block_size": "16"}, "block_size: must be a whole number, but is '16'; leave out the quotes"),
        ({"dropout": 1.5}, "dropout: must be less than 1.0, but is 1.5"),
        ({"pos_type": "rotary"}, "pos_type: must be one of 'learned', 'sinusoidal', but is 'rotary'"),
        (
            {"window_size": 5},
            "window_size: unknown key of 'softmax': it is a setting of 'local'; choose that type, "
            "or leave 'window_size' out",
        ),
        (
            {"attention_type": "flash_atention"},
            f"attention_type 'flash_atention' is not known; did you mean 'flash_attention'? ({KNOWN} attention_class)",
        ),
        (
            {"attention_type": "linear_attention", "attention_class": "FlashAttention"},
            "attention_type 'linear_attention' has the class LinearAttention, and attention_class is 'FlashAttention'; "
            "write attention_class: LinearAttention, or name the file that has FlashAttention",
        ),
        (
            {"norm_type": "my_module", "norm_class": "Stranger"},
            "norm_type 'my_module' cannot be used: 'my_module:Stranger' must be a class that extends "
            "gptwright.nn.base.Norm (known: layernorm, rmsnorm, scalenorm, or a module of your own with its class in "
            "norm_class)",
        ),
        (
            {"n_embd": 33, "num_heads": 3, "pos_type": "sinusoidal"},
            "pos_type: sinusoidal positions need an even n_embd, and it is 33; use n_embd 34, or learned positions",
        ),
    ],
)
def test_mistakes_are_named_in_the_design_s_words(own, changes, sentence):
    with pytest.raises(gw.ConfigError) as error:
        model(**changes)
    assert str(error.value) == sentence


def test_a_missing_attribute_is_named():
    with pytest.raises(gw.ConfigError) as error:
        GPTModel(SimpleNamespace(**{key: value for key, value in SMALL.items() if key != "block_size"}))
    assert str(error.value) == "block_size: missing; give it a value (Maximum sequence length)"


def test_a_module_that_does_not_exist_is_named():
    with pytest.raises(gw.ConfigError) as error:
        model(attention_type="flash_atention", attention_class="FlashAttention")
    start, end = (
        "attention_type 'flash_atention' cannot be used: ",
        f"did you mean 'flash_attention'? ({KNOWN} attention_class)",
    )
    assert str(error.value).startswith(start)
    assert "No module named 'flash_atention'" in str(error.value)
    assert str(error.value).endswith(end)


def test_a_wrong_line_of_a_file_is_named(tmp_path):
    (tmp_path / "gpt.yaml").write_text(PUBLISHED_YAML.replace("dropout: 0.1", "dropuot: 0.1"))
    with pytest.raises(gw.ConfigError, match=r"^dropuot: unknown key; did you mean 'dropout'\? \(.*gpt.yaml:8\)$"):
        load_config(tmp_path / "gpt.yaml")
