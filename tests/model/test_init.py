"""How weights begin."""

import math

import pytest
import torch

import gptwright as gw

WIDE = {"d_model": 64, "n_layers": 8, "vocab_size": 500, "init": "gpt2"}


def std(model, name: str) -> float:
    return float(dict(model.named_parameters())[name].detach().std())


def test_gpt2_scales_residual_outputs_by_depth(build):
    model = build(**WIDE)
    for name in ("attention.q_proj", "feed_forward.up_proj"):
        assert std(model, f"layers.3.{name}.weight") == pytest.approx(0.02, rel=0.1)
    for name in ("attention.o_proj", "feed_forward.down_proj"):
        assert std(model, f"layers.3.{name}.weight") == pytest.approx(0.02 / math.sqrt(16), rel=0.1)
    assert std(model, "token_embedding.weight") == pytest.approx(0.02, rel=0.1)
    assert std(model, "position.weight") == pytest.approx(0.02, rel=0.2)


def test_the_loss_begins_at_that_of_a_uniform_guess(build):
    model = build(**WIDE)
    ids = torch.randint(500, (4, 10), generator=torch.Generator().manual_seed(0))
    assert gw.loss(model(ids)[:, :-1], ids[:, 1:]).item() == pytest.approx(math.log(500), abs=0.1)


@pytest.mark.parametrize("feed_forward", ["mlp", {"type": "moe", "n_experts": 2, "n_shared": 1}])
def test_zero_residual_begins_as_the_identity(build, feed_forward):
    model = build(**{**WIDE, "init": "zero_residual", "feed_forward": feed_forward})
    x = torch.randn(1, 4, 64)
    assert torch.equal(model.layers[2](x, gw.Sequence.plain(1, 4)), x)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("normal", 0.02),
        ("xavier_normal", math.sqrt(2 / (64 + 64))),
        ("xavier_uniform", math.sqrt(2 / (64 + 64))),
        ("kaiming", math.sqrt(2 / 64)),
    ],
)
def test_strategies(build, strategy, expected):
    assert std(build(**{**WIDE, "init": strategy}), "layers.1.attention.o_proj.weight") == pytest.approx(
        expected, rel=0.1
    )


def test_overrides_by_name(build):
    overrides = {"*.attention.*": "xavier_normal", "*.q_proj.weight": "zeros", "final_norm.weight": "zeros"}
    model = build(**{**WIDE, "init": {"overrides": overrides}})
    assert std(model, "layers.1.attention.k_proj.weight") == pytest.approx(math.sqrt(2 / 128), rel=0.1)
    assert std(model, "layers.1.attention.q_proj.weight") == 0
    assert std(model, "layers.1.feed_forward.up_proj.weight") == pytest.approx(0.02, rel=0.1)
    assert not model.final_norm.weight.any()


def test_a_pattern_that_matches_nothing_is_refused(build):
    with pytest.raises(gw.ConfigError, match=r"names '\*\.atention\.\*', which matches no parameter; names look like"):
        build(init={"overrides": {"*.atention.*": "zeros"}})


def test_norms_begin_at_one_and_biases_at_zero(build):
    model = build(bias=True)
    assert torch.equal(model.final_norm.weight, torch.ones(8))
    assert not model.layers[0].attention.q_proj.bias.any()
