"""GPT-1 under its published names."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Module

import gptwright as gw
from gptwright.dropin import gpt1
from gptwright.model import PRESETS
from gptwright.train.settings import read_settings

from .laws import (
    assert_cached_is_uncached,
    assert_causal,
    assert_drops_in_training_only,
    assert_reads_the_end_of_a_long_prompt,
)

PUBLISHED_PRE_NORM = """
class TransformerBlock(Module):
    # ... Existing code ...
    def forward(self, x, ignore):
        x = self.norm1(x)
        x = x + self.drop1(self.att(x, ignore))
        x = self.norm2(x)
        return x + self.drop2(self.ffl(x))
"""
PUBLISHED_ADAMW = """
# In the training script
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
"""
PUBLISHED_ONE_CYCLE = """
# In the training script
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr, total_steps=total_training_steps)
"""
SIGNATURES = {
    gpt1.GPT: "vocab seq n_layers n_heads dim hidden dropout device",
    gpt1.TransformerBlock: "n_heads dim hidden dropout device",
    gpt1.MultiHeadAttentionLayer: "n_heads dim device",
    gpt1.SelfAttentionLayer: "d_in d_out device",
    gpt1.FeedForwardLayer: "d_in d_h device",
}


def model(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {
        "vocab": 50,
        "seq": 16,
        "n_layers": 2,
        "n_heads": 4,
        "dim": 32,
        "hidden": 48,
        "dropout": 0.1,
        "device": "cpu",
    }
    return gpt1.GPT(**{**sizes, **changes})


def mask(*rows):
    return torch.tensor([[letter == "-" for letter in row] for row in rows])


def x(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", SIGNATURES)
def test_signatures_are_the_published_ones(kind):
    parameters = inspect.signature(kind.__init__).parameters.values()
    published = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    assert " ".join(p.name for p in published) == SIGNATURES[kind]
    assert issubclass(kind, Module)


def test_forward_takes_x_and_ignore(ids):
    assert model()(x=ids(2, 8), ignore=None).shape == (2, 8, 50)
    assert list(inspect.signature(gpt1.GPT.forward).parameters)[1:3] == ["x", "ignore"]


@pytest.mark.parametrize("row", ["--xxxxx", "xxxxx--"])
def test_ignoring_padding_is_cropping_it(ids, row):
    whole, full = ids(2, 7), mask(row, "xxxxxxx")
    found = model().eval()(whole, full)
    alone = model().eval()(whole[:1][~full[:1]][None], None)
    torch.testing.assert_close(found[0][~full[0]], alone[0], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(found[1:], model().eval()(whole[1:], None), atol=2e-6, rtol=1e-5)


def test_what_is_ignored_sends_no_gradient(ids):
    whole, full = ids(1, 7), mask("--xxxxx")
    gradients = []
    for tokens, ignore in ((whole, full), (whole[:, 2:], None)):
        one = model(dropout=0.0)
        one(tokens, ignore)[:, -5:].square().sum().backward()
        gradients.append([p.grad for p in one.parameters()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_row_of_nothing_but_padding_stays_finite(ids):
    assert torch.isfinite(model()(ids(2, 4), mask("----", "xxxx"))).all()


def test_padding_may_be_told_in_whole_numbers(ids):
    whole, full = ids(1, 5), mask("--xxx")
    torch.testing.assert_close(model().eval()(whole, full.long())[:, 2:], model().eval()(whole, full)[:, 2:])


def test_it_is_the_engine_s_gpt_1(ids):
    one = model().eval()
    engine = gw.GPT(one.config).eval()
    names = {"norm1": "attention_norm", "norm2": "feed_forward_norm", "att": "attention", "ffl": "feed_forward"}
    weights = {
        ".".join(names.get(word, word) for word in name.split(".")): value for name, value in one.state_dict().items()
    }
    engine.load_state_dict(weights)
    torch.testing.assert_close(one(ids(2, 8), None), engine(ids(2, 8)), atol=1e-6, rtol=1e-5)


def test_at_its_own_size_it_has_gpt_1_s_parameters():
    published = read_settings(PRESETS / "gpt1.yaml").config.model
    with torch.device("meta"):
        built = gpt1.GPT(40478, 512, 12, 12, 768, 3072, 0.1, "meta")
    assert built.num_params() == published.num_params() == 116_534_784
    assert built.config.wiring == published.wiring
    assert built.config.feed_forward == published.feed_forward


def test_laws(ids):
    assert_causal(model(), ids(2, 8))
    assert_cached_is_uncached(model(), ids(2, 5))
    assert_drops_in_training_only(model(), ids(2, 8))
    assert_reads_the_end_of_a_long_prompt(model(), ids(1, 20))


def test_the_block_is_post_norm_of_its_own_attributes():
    torch.manual_seed(0)
    block = gpt1.TransformerBlock(4, 32, 48, 0.0, "cpu")
    inside = block.norm1(x(2, 5, 32) + block.att(x(2, 5, 32), None))
    torch.testing.assert_close(block(x(2, 5, 32), None), block.norm2(inside + block.ffl(inside)))


@pytest.mark.parametrize("part", ["norm1", "drop1", "att", "norm2", "drop2", "ffl"])
def test_every_attribute_of_the_block_is_used(part):
    block = gpt1.TransformerBlock(4, 32, 48, 0.0, "cpu")
    before = block(x(2, 5, 32), None)

    class Double(Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *given):
            return 2 * self.inner(*given)

    setattr(block, part, Double(getattr(block, part)))
    assert not torch.allclose(block(x(2, 5, 32), None), before)


def test_heads_together_are_heads_apart():
    torch.manual_seed(0)
    together, ignore = gpt1.MultiHeadAttentionLayer(2, 8, "cpu"), mask("-xxxx", "xxxxx")
    apart = [gpt1.SelfAttentionLayer(8, 4, "cpu") for _ in range(2)]
    for head, one in enumerate(apart):
        for name in ("q_proj", "k_proj", "v_proj"):
            whole, part = getattr(together, name), getattr(one, name)
            part.load_state_dict({key: value[4 * head : 4 * head + 4] for key, value in whole.state_dict().items()})
    joined = together.o_proj(torch.cat([one(x(2, 5, 8), ignore) for one in apart], -1))
    torch.testing.assert_close(together(x(2, 5, 8), ignore), joined)


def test_one_head_by_itself_is_the_formula():
    torch.manual_seed(0)
    head = gpt1.SelfAttentionLayer(8, 3, "cpu")
    q, k, v = (proj(x(2, 5, 8)) for proj in (head.q_proj, head.k_proj, head.v_proj))
    scores = (q @ k.mT / 3**0.5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(head(x(2, 5, 8), None), scores.softmax(-1) @ v)
    assert head(x(2, 5, 8)).shape == (2, 5, 3)


def test_feed_forward_by_itself_is_the_formula():
    layer = gpt1.FeedForwardLayer(8, 20, "cpu")
    expected = layer.down_proj(F.gelu(layer.up_proj(x(2, 5, 8)), approximate="tanh"))
    torch.testing.assert_close(layer(x(2, 5, 8)), expected)


def test_the_published_pre_norm_block_runs_as_written(ids, typed):
    block = typed(PUBLISHED_PRE_NORM, Module=gpt1.TransformerBlock)[0]["TransformerBlock"]
    one = block(4, 32, 48, 0.0, "cpu")
    normed = one.norm1(x(2, 5, 32))
    middle = one.norm2(normed + one.att(normed, None))
    torch.testing.assert_close(one(x(2, 5, 32), None), middle + one.ffl(middle))
    whole = model(block=block)
    assert all(type(layer) is block for layer in whole.layers)
    assert_causal(whole, ids(2, 8))
    assert_cached_is_uncached(whole, ids(2, 5))


def test_a_forward_put_into_the_class_is_used_by_the_model(ids, typed, monkeypatch):
    forward = typed(PUBLISHED_PRE_NORM, Module=Module)[0]["TransformerBlock"].forward
    before = model().eval()(ids(2, 8), None)
    monkeypatch.setattr(gpt1.TransformerBlock, "forward", forward)
    assert not torch.allclose(model().eval()(ids(2, 8), None), before)


def test_pre_norm_as_a_setting_leaves_the_residual_stream_alone(ids):
    block = gpt1.PreNormBlock(4, 32, 48, 0.0, "cpu")
    middle = x(2, 5, 32) + block.att(block.norm1(x(2, 5, 32)), None)
    torch.testing.assert_close(block(x(2, 5, 32), None), middle + block.ffl(block.norm2(middle)))
    whole = model(wiring="pre")
    assert all(type(layer) is gpt1.PreNormBlock for layer in whole.layers)
    assert not isinstance(whole.final_norm, nn.Identity)
    assert_causal(whole, ids(2, 8))


def test_the_published_training_lines_train(ids, typed):
    one, tokens = model(dropout=0.0), ids(4, 9)
    names = {"torch": torch, "model": one, "learning_rate": 1e-3, "weight_decay": 0.01}
    names |= {"max_lr": 0.02, "total_training_steps": 30}
    names, _ = typed(PUBLISHED_ADAMW + PUBLISHED_ONE_CYCLE, **names)
    losses, rates = [], []
    for _ in range(30):
        loss = gw.loss(one(tokens[:, :-1], None), tokens[:, 1:], label_smoothing=0.1)
        names["optimizer"].zero_grad()
        loss.backward()
        names["optimizer"].step()
        rates.append(names["scheduler"].get_last_lr()[0])
        names["scheduler"].step() if len(rates) < 30 else None
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert rates[0] < max(rates) > rates[-1]


def test_kinds_of_layers_begin_as_they_are_told():
    one = model(init={"strategy": "normal", "overrides": {"*.att.*": "zeros", "*.up_proj.*": "xavier_uniform"}})
    assert one.layers[0].att.q_proj.weight.abs().max() == 0
    assert one.layers[0].ffl.up_proj.weight.abs().max() <= (6 / (32 + 48)) ** 0.5
    assert 0.015 < one.layers[0].ffl.down_proj.weight.std() < 0.025


def test_init_weights_can_be_written_anew_and_called():
    class Own(gpt1.GPT):
        def init_weights(self):
            super().init_weights()
            nn.init.ones_(self.layers[0].ffl.down_proj.weight)

    one = Own(50, 16, 2, 4, 32, 48, 0.1, "cpu")
    assert (one.layers[0].ffl.down_proj.weight == 1).all()
    assert one.token_embedding.weight.std() < 0.03
    before = one.token_embedding.weight.detach().clone()
    one.init_weights()
    assert not torch.equal(one.token_embedding.weight, before)


def test_it_compiles(ids):
    one, tokens, full = model().eval(), ids(2, 8), mask("--xxxxxx", "xxxxxxxx")
    compiled = torch.compile(one, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, full), one(tokens, full))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: model(n_heads=5), "n_heads: n_heads 5 must divide dim 32; use 2 or 4 heads"),
        (lambda: gpt1.MultiHeadAttentionLayer(3, 32), "n_heads: n_heads 3 must divide dim 32; use 2 or 4 heads"),
        (lambda: model(dropout=1.5), "dropout: must be less than 1.0, but is 1.5"),
        (lambda: model(hidden=0), "hidden: must be more than 0, but is 0"),
        (lambda: model(vocab="50"), "vocab: must be a whole number, but is '50'; leave out the quotes"),
        (lambda: gpt1.FeedForwardLayer(0, 4), "d_in: must be more than 0, but is 0"),
        (lambda: model(device="gpu"), "device 'gpu' is none that torch knows; use cpu, cuda, cuda:1 or mps"),
        (
            lambda: model(wiring="sandwich"),
            "wiring 'sandwich' has no block here; use post or pre, or gptwright.GPT for the others",
        ),
        (
            lambda: model()(torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 4)),
            "ignore has shape (2, 4) and x (2, 5); ignore must be (batch, length), True where a token is padding",
        ),
        (
            lambda: gpt1.MultiHeadAttentionLayer(4, 32)(x(2, 5, 32), torch.zeros(5, 5)),
            "ignore has shape (5, 5) and x (2, 5, 32); ignore must be (batch, length), True where a token is padding",
        ),
    ],
)
def test_mistakes_are_named(make, sentence):
    with pytest.raises(gw.GptwrightError) as error:
        make()
    assert str(error.value) == sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there():
    with pytest.raises(gw.ConfigError, match="device 'cuda' was asked for but this torch sees no CUDA device"):
        model(device="cuda")
