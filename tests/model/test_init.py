"""How weights begin."""

import math

import pytest
import torch

import gptwright as gw
from gptwright.model.freeze import freeze
from gptwright.model.init import initialise
from gptwright.model.reinit import reinitialise

WIDE = {"d_model": 64, "n_layers": 8, "vocab_size": 500, "init": "gpt2"}


def std(model, name: str) -> float:
    return float(weight(model, name).std())


def weight(model, name: str) -> torch.Tensor:
    return dict(model.named_parameters())[name].detach()


LARGE = {"d_model": 256, "n_layers": 3, "vocab_size": 1000, "max_seq_len": 256, "tie_embeddings": False}
"""Large enough for a standard deviation to be known to a percent."""
BY_FAN = {
    "xavier_normal": lambda into, out: math.sqrt(2 / (into + out)),
    "xavier_uniform": lambda into, out: math.sqrt(2 / (into + out)),
    "kaiming": lambda into, out: math.sqrt(2 / into),
    "kaiming_normal": lambda into, out: math.sqrt(2 / into),
    "kaiming_uniform": lambda into, out: math.sqrt(2 / into),
}
ATTENTIONS = [
    {"type": "softmax", "n_heads": 8, "n_kv_heads": 2},
    {"type": "local", "n_heads": 8, "window": 16},
    {"type": "linear", "n_heads": 8},
    {"type": "gated_delta", "n_heads": 8},
    {"type": "latent", "n_heads": 8},
]
FEED_FORWARDS = [
    "mlp",
    "glu",
    {"type": "moe", "n_experts": 3, "d_ff": 256, "n_shared": 2},
    {"type": "moe", "n_experts": 2, "expert": {"type": "mlp", "d_ff": 256}},
]
PAIRS = [*((each, "mlp") for each in ATTENTIONS), *((ATTENTIONS[0], each) for each in FEED_FORWARDS[1:])]


def matrices(model):
    """(name, weight) of all linear layers of the blocks."""
    found = ((name, module) for name, module in model.layers.named_modules() if isinstance(module, torch.nn.Linear))
    return [(name, module.weight.detach()) for name, module in found]


@pytest.mark.parametrize(("attention", "feed_forward"), PAIRS, ids=str)
@pytest.mark.parametrize("strategy", ["gpt2", "normal", "zero_residual", *BY_FAN])
def test_every_matrix_of_every_component_begins_as_the_strategy_says(build, attention, feed_forward, strategy):
    model = build(**LARGE, attention=attention, feed_forward=feed_forward, init=strategy)
    residual = 0
    for name, found in matrices(model):
        out, into = found.shape
        ends = name.endswith((".o_proj", ".down_proj"))
        residual += ends
        expected = BY_FAN[strategy](into, out) if strategy in BY_FAN else 0.02
        if ends and strategy == "gpt2":
            expected /= math.sqrt(2 * 3)
        if ends and strategy == "zero_residual":
            assert not found.any(), name
            continue
        tolerance = 5 / math.sqrt(2 * found.numel())  # five standard errors
        assert float(found.std()) == pytest.approx(expected, rel=tolerance), name
        assert abs(float(found.mean())) < 5 * expected / math.sqrt(found.numel()), name
        kurtosis = float((found / found.std()).pow(4).mean())  # 3 of a normal distribution, 1.8 of a uniform one
        assert kurtosis == pytest.approx(1.8 if strategy.endswith("uniform") else 3, abs=0.4), name
    experts = (
        feed_forward.get("n_experts", 0) + feed_forward.get("n_shared", 0) if isinstance(feed_forward, dict) else 1
    )
    assert residual == 3 * (1 + experts)


@pytest.mark.parametrize("strategy", ["gpt2", "zero_residual", *BY_FAN])
def test_tables_are_normal_whatever_the_strategy_and_an_untied_head_follows_it(build, strategy):
    model = build(**LARGE, init=strategy)
    assert std(model, "token_embedding.weight") == pytest.approx(0.02, rel=0.02)
    assert std(model, "position.weight") == pytest.approx(0.02, rel=0.02)
    head = BY_FAN[strategy](256, 1000) if strategy in BY_FAN else 0.02
    assert std(model, "lm_head.weight") == pytest.approx(head, rel=0.02)


def test_what_components_begin_with_is_kept(build):
    """Decays, convolutions, sinks, norms and layer scales are no linear layers: no strategy changes them."""
    parts = {"attention": {"type": "gated_delta", "n_heads": 8}, "layer_scale": 0.1, "norm": "scale_norm"}
    plain, other = (build(**{**LARGE, **parts, "init": init}) for init in ("gpt2", "zero_residual"))
    linear = {f"layers.{name}.weight" for name, _ in matrices(plain)}
    kept = [name for name, _ in plain.layers.named_parameters(prefix="layers") if name not in linear]
    assert {name.split(".")[-1] for name in kept} >= {"A_log", "dt_bias", "q_conv", "attention_scale", "weight"}
    assert all(torch.equal(weight(plain, name), weight(other, name)) for name in kept if "conv" not in name)
    assert all(weight(plain, name).abs().max() <= 0.5 for name in kept if "conv" in name)


@pytest.mark.parametrize("word", ["q_proj", "k_proj", "v_proj", "o_proj"])
def test_an_override_reaches_each_projection_by_itself(build, word):
    model = build(**{**LARGE, "init": {"overrides": {word: "kaiming_uniform"}}})
    for name, found in matrices(model):
        residual = math.sqrt(6) if name.endswith(("o_proj", "down_proj")) else 1
        expected = math.sqrt(2 / 256) if word in name else 0.02 / residual
        assert float(found.std()) == pytest.approx(expected, rel=0.03), name


def test_overrides_by_kind_of_layer_part(build):
    """What GPT-1 repositories do by the kind of a layer: attention so, feed-forward so, the head at zero."""
    overrides = {"attention": "xavier_normal", "feed_forward": "kaiming", "*norm*": "ones", "lm_head": "zeros"}
    model = build(**{**LARGE, "init": {"strategy": "normal", "overrides": overrides}})
    assert std(model, "layers.1.attention.o_proj.weight") == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    assert std(model, "layers.1.feed_forward.down_proj.weight") == pytest.approx(math.sqrt(2 / 1024), rel=0.02)
    assert not weight(model, "lm_head.weight").any()
    assert torch.equal(weight(model, "final_norm.weight"), torch.ones(256))


def test_a_stack_of_matrices_is_initialised_matrix_by_matrix(build):
    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = torch.nn.Parameter(torch.zeros(4, 200, 300))

    model, config = Stack(), gw.ModelConfig.from_dict({**_MINIMAL, "init": {"overrides": {"stack": "xavier_normal"}}})
    initialise(model, config)
    for matrix in model.stack.detach():
        assert float(matrix.std()) == pytest.approx(math.sqrt(2 / 500), rel=0.02)


_MINIMAL = {"d_model": 8, "n_layers": 1, "max_seq_len": 8, "attention": {"type": "softmax", "n_heads": 2}}


@pytest.mark.parametrize("init", ["xavier_uniform", {"strategy": "normal", "std": 0.1}, None])
def test_a_model_that_exists_begins_anew_as_a_new_one_does(build, ids, init):
    """Norms, which no strategy sets, go back to where they began as well."""
    fresh = build(**({} if init is None else {"init": init}))
    used = build(init=fresh.config.init.to_dict() if init is None else "gpt2")
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.add_(torch.randn(parameter.shape))
    freeze(used, "layers.0")
    torch.manual_seed(0)
    reinitialise(used, init)
    for (name, a), (_, b) in zip(used.state_dict().items(), fresh.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert used.config.init == fresh.config.init
    assert not used.layers[0].attention.q_proj.weight.requires_grad
    assert torch.equal(used(ids), fresh(ids))


def test_an_unknown_strategy_is_refused_with_the_known_ones(build):
    with pytest.raises(gw.ConfigError, match="xavier_uniform"):
        reinitialise(build(), "xavier")


@pytest.mark.parametrize(
    ("changes", "overrides", "sentence"),
    [
        (
            {},
            {"*.q_prj.*": "zeros"},
            "model.init.overrides names '*.q_prj.*', which matches no parameter; names look like "
            "'layers.0.attention.q_proj.weight'; did you mean '*.q_proj.*'?",
        ),
        (
            {},
            {"*norm*": "xavier_normal"},
            "model.init.overrides gives '*norm*' xavier_normal, which is for matrices, and that names vectors alone; "
            "use normal, zeros or ones",
        ),
        (
            {"tie_embeddings": True},
            {"lm_head": "zeros"},
            "model.init.overrides names 'lm_head', which is tied to the token embedding; set model.tie_embeddings to "
            "false, or name token_embedding",
        ),
    ],
)
def test_an_override_that_cannot_be_is_refused(build, changes, overrides, sentence):
    with pytest.raises(gw.ConfigError) as error:
        build(**changes, init={"overrides": overrides})
    assert str(error.value) == sentence


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
