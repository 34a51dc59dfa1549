"""L1 under its published names."""

import copy

import pytest
import torch
import torch.nn.functional as F

import gptwright as gw
from gptwright.dropin.l1 import SIZES, L1Config, L1Model, spread

from .. import tiny
from .laws import (
    assert_cached_is_uncached,
    assert_causal,
    assert_drops_in_training_only,
    assert_reads_the_end_of_a_long_prompt,
)

PUBLISHED_CONFIG = """
config = L1Config(
    vocab_size=50257,      # Vocabulary size
    max_seq_length=1024,   # Maximum sequence length
    n_layers=12,           # Number of transformer layers
    n_heads=12,            # Number of attention heads
    n_embd=768,           # Embedding dimension
    n_inner=3072,         # Feed-forward inner dimension
    dropout=0.1,          # Dropout probability
)
"""
PUBLISHED_GENERATION = """
model.generate(
    input_ids=prompt_tokens,
    max_new_tokens=50,
    temperature=0.8,
    top_k=50,
    top_p=0.9,
    do_sample=True
)
"""
SMALL = {"vocab_size": 60, "max_seq_length": 64, "n_layers": 3, "n_heads": 4, "n_embd": 32, "n_inner": 48}


def model(seed=0, **changes):
    torch.manual_seed(seed)
    return L1Model(L1Config(**{**SMALL, **changes}))


def test_the_published_settings_are_the_defaults(typed):
    names, _ = typed(PUBLISHED_CONFIG, L1Config=L1Config)
    assert names["config"] == L1Config(n_inner=3072)
    assert names["config"].model().num_params() == L1Config().model().num_params()
    assert L1Config() == L1Config.size("base")


def test_the_published_generation_runs_as_written(ids, typed):
    one, prompt = model(), ids(2, 10)
    found = eval(PUBLISHED_GENERATION.strip(), {"model": one, "prompt_tokens": prompt})
    assert found.shape == (2, 60)
    assert torch.equal(found[:, :10], prompt)


@pytest.mark.parametrize(("name", "millions"), [("tiny", 6.96), ("small", 30.34), ("base", 124.44), ("large", 354.82)])
def test_sizes(name, millions):
    config = L1Config.size(name)
    assert round(config.model().num_params() / 1e6, 2) == millions
    with torch.device("meta"):
        assert L1Model(config).num_params() == config.model().num_params()
    assert L1Config.size(name, dropout=0.0).dropout == 0.0
    assert set(SIZES) == {"tiny", "small", "base", "large"}


@pytest.mark.parametrize("changes", [{}, {"pos_type": "sinusoidal"}, {"tie_weights": False}])
def test_laws(ids, changes):
    assert_causal(model(**changes), ids(2, 8))
    assert_cached_is_uncached(model(**changes), ids(2, 5))
    assert_drops_in_training_only(model(**changes), ids(2, 8))
    assert_reads_the_end_of_a_long_prompt(model(**changes), ids(1, 70))


def test_it_is_what_the_text_says():
    one = model()
    config = one.config
    assert (config.wiring, config.norm.type, config.position.type) == ("pre", "layer_norm", "learned")
    assert (config.feed_forward.activation, config.feed_forward.d_ff) == ("gelu", 48)
    assert one.lm_head.weight is one.token_embedding.weight
    assert model(tie_weights=False).lm_head.weight is not model().token_embedding.weight
    assert config.attention.attention_dropout == 0.1
    assert model(attention_dropout=0.0).config.attention.attention_dropout == 0.0
    assert model(n_inner=None).config.feed_forward.width(config.context(0)) == 128


def test_ways_of_drawing(ids):
    one, prompt = model(), ids(1, 6)
    greedy = one.generate(input_ids=prompt, max_new_tokens=5, do_sample=False)
    assert torch.equal(greedy, one.generate(prompt, 5, temperature=0.0))
    assert torch.equal(greedy, one.generate(prompt, 5, top_k=1))
    assert torch.equal(greedy, one.generate(prompt, 5, top_p=1e-6))
    drawn = {tuple(one.generate(prompt, 5, top_k=5, seed=seed)[0].tolist()) for seed in range(8)}
    assert len(drawn) > 4


def test_the_cache_takes_any_number_of_tokens(ids):
    one, tokens = model().eval(), ids(2, 12)
    states = one.init_states(batch=2, length=12)
    with torch.no_grad():
        pieces = [one(piece, states=states) for piece in tokens.split([5, 1, 6], 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), one(tokens), atol=2e-6, rtol=1e-5)
    assert states.nbytes > 0


def test_the_loss_is_smoothed_and_leaves_padding_out(ids):
    one, tokens = model(label_smoothing=0.1, pad_token_id=0).eval(), ids(2, 9).clamp(min=1)
    tokens[0, 6:] = 0
    logits, loss = one(tokens[:, :-1], tokens[:, 1:])
    counts = (tokens[:, 1:] != 0).flatten()
    flat, wanted = logits.flatten(0, 1)[counts], tokens[:, 1:].flatten()[counts]
    torch.testing.assert_close(loss, F.cross_entropy(flat, wanted, label_smoothing=0.1))
    assert not torch.isclose(loss, F.cross_entropy(flat, wanted))


def test_gradient_checkpointing_gives_the_same_gradients_and_keeps_less(ids):
    whole, found = model(), []
    for again in (False, True):
        one, kept = copy.deepcopy(whole).train(), []
        one.gradient_checkpointing = again
        torch.manual_seed(1)  # the same elements are dropped
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            loss = one(ids(2, 8), ids(2, 8))[1]
        held = sum(kept)
        loss.backward()
        found.append((held, [p.grad for p in one.parameters()]))
    assert found[1][0] < 0.6 * found[0][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other)
    assert model(gradient_checkpointing=True).gradient_checkpointing is True


def test_layers_spread_over_devices_give_the_same(ids):
    whole, tokens = model(dropout=0.0), ids(2, 9)
    parted = spread(copy.deepcopy(whole), ["cpu", "cpu"])
    gradients = []
    for one in (whole, parted):
        logits, loss = one(tokens[:, :-1], tokens[:, 1:], padding_mask=torch.arange(8).expand(2, 8) > 1)
        loss.backward()
        gradients.append([logits[:, 2:], *(p.grad for p in one.parameters())])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)
    assert_cached_is_uncached(parted, tokens)


def test_layers_go_where_they_are_told():
    one = spread(model(n_layers=5), ["cpu", "meta"])
    assert [str(next(layer.parameters()).device) for layer in one.layers] == ["cpu"] * 3 + ["meta"] * 2
    assert {str(p.device) for p in one.token_embedding.parameters()} == {"cpu"}
    assert [str(state.k.device) for state in one.init_states(1, 8)] == ["cpu"] * 3 + ["meta"] * 2
    seen = []
    one.layers[4].register_forward_hook(lambda _, args, out: seen.extend([args[0], args[1].positions, out]))
    with pytest.raises(NotImplementedError, match="meta"):  # nothing comes back from there
        one(torch.zeros(1, 4, dtype=torch.long))
    assert [str(tensor.device) for tensor in seen] == ["meta"] * 3
    with pytest.raises(gw.ConfigError, match="devices is empty; name at least one"):
        spread(model(), [])


def test_a_run_trains_it_as_the_text_says(tmp_path, ids):
    book = tmp_path / "book.txt"
    book.write_text(tiny.text())
    config = L1Config.size("tiny", max_seq_length=16, n_embd=32, dropout=0.0)
    settings = {
        "model": {key: value for key, value in config.model().to_dict().items() if key != "vocab_size"},
        "optim": {"type": "adamw", "lr": 0.01, "weight_decay": 0.1},
        "schedule": {"type": "cosine", "warmup_steps": 2},
        "train.steps": 8,
        "train.tokens_per_step": 64,
        "train.clip": 1.0,
        "train.label_smoothing": 0.1,
        "train.gradient_checkpointing": "block",
        "train.precision": "fp16",
        "train.log_every": 1,
        "train.eval_every": 0,
        "train.sample_every": 0,
        "train.trackers": [],
        "data": {"source": str(book), "tokenizer": "char"},
    }
    tiny.train(settings, tmp_path / "run")
    rows = [row for row in tiny.metrics(tmp_path / "run") if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"]
    trained = gw.load(tmp_path / "run", device="cpu")
    one = L1Model(L1Config(**{**config.to_dict(), "vocab_size": trained.config.vocab_size}))
    one.load_state_dict(trained.state_dict())
    assert torch.equal(one.eval()(ids(1, 8, 20)), trained(ids(1, 8, 20)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: L1Config(n_layer=3), "n_layer: unknown key; here it is called 'n_layers'"),
        (lambda: model(dropout=1.0), "dropout: must be less than 1.0, but is 1.0"),
        (lambda: model(n_heads=5), "n_heads: n_heads 5 must divide n_embd 32; use 2 or 4 heads"),
        (lambda: model(max_seq_length=0), "max_seq_length: must be more than 0, but is 0"),
        (lambda: model(n_inner=-1), "n_inner: must be more than 0, but is -1"),
        (
            lambda: L1Config.size("tny"),
            "there is no size 'tny'; did you mean 'tiny'? (known: tiny, small, base, large)",
        ),
    ],
)
def test_mistakes_are_named(make, sentence):
    with pytest.raises(gw.ConfigError) as error:
        make()
    assert str(error.value) == sentence
