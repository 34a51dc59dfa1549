"""Rotary positions with their settings, against transformers on the same settings and weights."""

import math
from itertools import combinations

import pytest
import torch

import gptwright as gw
from gptwright.nn.frequencies import SCALING
from gptwright.nn.slots import ATTENTION, POSITION

rope = pytest.importorskip("transformers.modeling_rope_utils")
llama = pytest.importorskip("transformers.models.llama.modeling_llama")
phi = pytest.importorskip("transformers.models.phi.modeling_phi")

FAR = torch.tensor([[0, 1, 2, 50, 1000, 5000, 99_999, 100_000]])


def rotary(**settings):
    return POSITION.resolve("rotary").Config.from_dict(settings)


def model(**settings):
    base = {"d_model": 32, "n_layers": 1, "max_seq_len": 16, "attention": {"type": "softmax", "n_heads": 4}}
    return gw.ModelConfig.from_dict({**base, **settings})


def refused(position, **settings) -> str:
    with pytest.raises(gw.ConfigError) as error:
        model(position={"type": "rotary", **position}, **settings)
    return str(error.value)


def theirs(head_dim: int, theta: float, fraction: float = 1.0, length: int = 2048, **parameters):
    """Return the settings of a Llama with these rotary parameters."""
    return llama.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=length,
        rope_parameters={"rope_theta": theta, "partial_rotary_factor": fraction, **parameters},
    )


YARN = {"factor": 8.0, "original_max_position_embeddings": 4096}
CASES = {
    "linear": ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    "yarn": ({"type": "yarn", "factor": 8.0, "original_max_seq_len": 4096}, {"rope_type": "yarn", **YARN}),
    "yarn-bounds": (
        {"type": "yarn", "factor": 8.0, "original_max_seq_len": 4096, "beta_fast": 20.0, "beta_slow": 2.0},
        {"rope_type": "yarn", **YARN, "beta_fast": 20.0, "beta_slow": 2.0},
    ),
    "yarn-between-pairs": (
        {"type": "yarn", "factor": 8.0, "original_max_seq_len": 4096, "truncate": False, "attention_factor": 1.5},
        {"rope_type": "yarn", **YARN, "truncate": False, "attention_factor": 1.5},
    ),
    "yarn-short": (
        {"type": "yarn", "factor": 2.0, "original_max_seq_len": 64},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64},
    ),
    "llama3": (
        {"type": "llama3", "factor": 8.0, "original_max_seq_len": 8192},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    ),
    "llama3-bands": (
        {
            "type": "llama3",
            "factor": 32.0,
            "original_max_seq_len": 100,
            "low_freq_factor": 0.5,
            "high_freq_factor": 9.0,
        },
        {
            "rope_type": "llama3",
            "factor": 32.0,
            "original_max_position_embeddings": 100,
            "low_freq_factor": 0.5,
            "high_freq_factor": 9.0,
        },
    ),
}
every_case = pytest.mark.parametrize(("ours", "parameters"), CASES.values(), ids=CASES)


@every_case
@pytest.mark.parametrize(("head_dim", "theta", "fraction"), [(64, 1e4, 1.0), (128, 5e5, 1.0), (80, 1e4, 0.4)])
def test_frequencies_are_those_of_transformers(ours, parameters, head_dim, theta, fraction):
    expected, factor = rope.ROPE_INIT_FUNCTIONS[parameters["rope_type"]](
        theirs(head_dim, theta, fraction, **parameters), "cpu"
    )
    config = rotary(theta=theta, fraction=fraction, scaling=ours)
    found = config.scaling.frequencies(config.rotated(head_dim), theta, "cpu")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert config.scaling.magnitude() == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_ntk_is_what_transformers_computes_for_one_length(head_dim):
    """Theirs depends on the length: at twice the trained one, with factor 3, theta is that of 3 * 2 - 2 = 4."""
    settings = theirs(head_dim, 1e4, rope_type="dynamic", factor=3.0)
    expected, factor = rope.ROPE_INIT_FUNCTIONS["dynamic"](settings, "cpu", seq_len=2 * 2048)
    found = rotary(scaling={"type": "ntk", "factor": 4.0}).scaling
    torch.testing.assert_close(found.frequencies(head_dim, 1e4, "cpu"), expected, rtol=1e-6, atol=0)
    assert found.magnitude() == factor == 1


@every_case
def test_turning_is_that_of_llama_far_out(ours, parameters):
    settings = theirs(16, 1e4, **parameters)
    q, k = torch.randn(2, 1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    cos, sin = llama.LlamaRotaryEmbedding(settings)(q, FAR)
    expected = llama.apply_rotary_pos_emb(q, k, cos, sin)
    found = rotary(scaling=ours).turn(q, k, gw.Sequence(FAR, torch.ones_like(FAR)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one[:, :, :5], other[:, :, :5], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(one, other, rtol=0, atol=0.05)  # one rounding of a frequency, 100,000 times


def test_attention_is_that_of_llama():
    ours, parameters = CASES["yarn-short"]
    settings = theirs(8, 1e4, **parameters)
    settings._attn_implementation = "eager"
    torch.manual_seed(0)
    other = llama.LlamaAttention(settings, layer_idx=0).eval()
    config = model(
        attention={"type": "softmax", "n_heads": 4, "n_kv_heads": 2}, position={"type": "rotary", "scaling": ours}
    )
    part = config.attention.build(config.context(0)).eval()
    part.load_state_dict(other.state_dict())
    x = torch.randn(2, 150, 32)
    at = torch.arange(150)[None]
    mask = torch.full((150, 150), -torch.inf).triu(1)[None, None]
    expected, _ = other(x, llama.LlamaRotaryEmbedding(settings)(x, at), mask)
    torch.testing.assert_close(part(x, gw.Sequence.plain(2, 150)), expected, rtol=1e-5, atol=1e-6)


def test_partial_turning_is_that_of_phi():
    settings = phi.PhiConfig(
        hidden_size=32,
        num_attention_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
    )
    settings._attn_implementation = "eager"
    torch.manual_seed(0)
    other = phi.PhiAttention(settings, layer_idx=0).eval()
    config = model(bias=True, position={"type": "rotary", "theta": 100.0, "fraction": 0.5})
    part = config.attention.build(config.context(0)).eval()
    part.load_state_dict({name.replace("dense", "o_proj"): value for name, value in other.state_dict().items()})
    x = torch.randn(2, 20, 32)
    mask = torch.full((20, 20), -torch.inf).triu(1)[None, None]
    expected, _ = other(x, phi.PhiRotaryEmbedding(settings)(x, torch.arange(20)[None]), mask)
    torch.testing.assert_close(part(x, gw.Sequence.plain(2, 20)), expected, rtol=1e-5, atol=1e-6)


def test_a_share_of_a_head_is_any_whole_number_of_features():
    for head_dim in (*range(1, 130), 192, 256, 320):
        for turned in range(head_dim + 1):
            share = turned / head_dim
            assert not turned or rotary(fraction=share).rotated(head_dim) == turned


def test_without_settings_nothing_has_changed():
    """Bit for bit: what was trained before goes on the same."""
    q = torch.randn(2, 3, 60, 8, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(60)[None, :, None].float() * 10000.0 ** -(torch.arange(0, 8, 2, dtype=torch.float32) / 8)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    expected = torch.cat((q, q), 1) * torch.cat((cos, cos), -1)
    low, high = torch.cat((q, q), 1).chunk(2, -1)
    expected[..., :4].addcmul_(high, sin, value=-1)
    expected[..., 4:].addcmul_(low, sin)
    for settings in ({}, {"fraction": 1.0}, {"scaling": None}):
        found = rotary(**settings).turn(q, q, gw.Sequence.plain(2, 60))
        assert torch.equal(torch.cat(found, 1), expected)


def test_angles_are_shared_among_layers_and_not_among_settings():
    q, seq = torch.randn(1, 2, 9, 8), gw.Sequence.plain(1, 9)
    scalings = [{"type": "linear", "factor": factor} for factor in (2.0, 3.0)] + [{"type": "ntk", "factor": 2.0}]
    configs = [rotary(), rotary(theta=500.0), rotary(fraction=0.5)] + [rotary(scaling=found) for found in scalings]
    turned = [config.turn(q, q, seq)[0] for config in configs]
    assert len(seq.memo) == len(configs)
    for config, found in zip(configs, turned, strict=True):
        assert torch.equal(config.turn(q, q, seq)[0], found)
        assert torch.equal(config.turn(q, q, gw.Sequence.plain(1, 9))[0], found)
    assert len(seq.memo) == len(configs)
    assert not any(torch.equal(one, other) for one, other in combinations(turned, 2))


def test_a_factor_of_one_changes_nothing():
    q, plain = torch.randn(1, 2, 9, 64), rotary()
    for name in SCALING.names():
        more = {"original_max_seq_len": 4} if name in ("yarn", "llama3") else {}
        found = rotary(scaling={"type": name, "factor": 1.0, **more}).turn(q, q, gw.Sequence.plain(1, 9))[0]
        torch.testing.assert_close(found, plain.turn(q, q, gw.Sequence.plain(1, 9))[0])


def test_every_scaling_has_examples_that_work():
    for name, component in SCALING.components().items():
        for example in component.EXAMPLES:
            config = rotary(scaling={"type": name, **example})
            assert rotary(**config.to_dict()) == config
            assert config.scaling.frequencies(8, 1e4, "cpu").shape == (4,)
            assert not [key for key, field in type(config.scaling).model_fields.items() if not field.description]


def test_scaling_reaches_further():
    """The angles of positions 0, 4, 8 ... by a linear factor of 4 are those of 0, 1, 2 ... without it."""
    q = torch.randn(1, 2, 9, 8)
    stretched = gw.Sequence(4 * torch.arange(9)[None], torch.ones(1, 9, dtype=torch.long))
    found = rotary(scaling={"type": "linear", "factor": 4.0}).turn(q, q, stretched)[0]
    torch.testing.assert_close(found, rotary().turn(q, q, gw.Sequence.plain(1, 9))[0])


def test_the_magnitude_of_yarn_multiplies_what_is_turned():
    q, scaling = torch.randn(1, 2, 9, 8), {"type": "yarn", "factor": 8.0, "original_max_seq_len": 64}
    assert rotary(scaling=scaling).scaling.magnitude() == pytest.approx(0.1 * math.log(8) + 1)
    found = rotary(scaling=scaling | {"attention_factor": 2.0}).turn(q, q, gw.Sequence.plain(1, 9))[0]
    torch.testing.assert_close(found.norm(dim=-1), 2 * q.norm(dim=-1))


def test_what_other_attentions_turn_has_a_width_of_its_own():
    config = model(
        attention={"type": "latent", "n_heads": 4, "rope_dim": 6}, position={"type": "rotary", "fraction": 0.67}
    )
    assert config.position.rotated(6) == 4
    part = ATTENTION.resolve("latent")(config.attention, config.context(0))
    assert part(torch.randn(1, 5, 32), gw.Sequence.plain(1, 5)).shape == (1, 5, 32)


@pytest.mark.parametrize(
    ("position", "sentence"),
    [
        ({"fraction": 0}, "position.fraction: must be more than 0.0, but is 0"),
        ({"fraction": 1.5}, "position.fraction: must be at most 1.0, but is 1.5"),
        (
            {"fraction": 0.4},
            "rotary positions turn pairs of features, and fraction 0.4 of a head of 8 features is 3 of them; use "
            "fraction 0.25 or 0.5",
        ),
        ({"fraction": 0.01}, "fraction 0.01 of a head of 8 features is none of them; use fraction 0.25 or 0.5"),
        ({"scaling": {"type": "linear"}}, "position.scaling.factor: missing; give it a value (How many times further"),
        ({"scaling": {"type": "linear", "factor": 0.5}}, "position.scaling.factor: must be at least 1.0, but is 0.5"),
        ({"scaling": {"type": "yarn", "factor": 2}}, "scaling.original_max_seq_len: missing; give it a value (Tokens"),
        ({"scaling": {"type": "llama3", "factor": 2}}, "position.scaling.original_max_seq_len: missing; give it a"),
        ({"scaling": {"type": "yran", "factor": 2}}, "unknown scaling 'yran'; did you mean 'yarn'? (known: linear, "),
        (
            {"scaling": {"type": "linear", "factor": 2, "beta_fast": 3}},
            "position.scaling.beta_fast: unknown key of 'linear': it is a setting of 'yarn'; choose that type, or",
        ),
        (
            {"scaling": {"type": "yarn", "factor": 2, "original_max_seq_len": 9, "beta_fats": 3}},
            "position.scaling.beta_fats: unknown key of 'yarn'; did you mean 'beta_fast'?",
        ),
        (
            {"scaling": {"type": "yarn", "factor": 2, "original_max_seq_len": 9, "beta_fast": 1.0}},
            "position.scaling.beta_slow: beta_slow 1 must be less than beta_fast 1, as pairs that turn seldom are",
        ),
        (
            {"theta": 1.0, "scaling": {"type": "yarn", "factor": 2, "original_max_seq_len": 9}},
            "yarn scaling needs pairs from fast to slow, and theta 1 is not above 1; raise theta, or use linear",
        ),
        (
            {"scaling": {"type": "llama3", "factor": 2, "original_max_seq_len": 9, "low_freq_factor": 4.0}},
            "position.scaling.low_freq_factor: low_freq_factor 4 must be less than high_freq_factor 4, as low",
        ),
        (
            {"fraction": 0.25, "scaling": {"type": "ntk", "factor": 2}},
            "ntk scaling slows down all pairs but the first, and 2 features are one pair; turn at least 4 features",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(position, sentence):
    said = refused(position)
    assert sentence in said
    assert "\n" not in said


def test_a_head_too_narrow_for_any_pair():
    assert "fraction 0.5 of a head of 1 features is none of them; use wider heads" in refused(
        {"fraction": 0.5}, attention={"type": "softmax", "n_heads": 32}
    )


def test_positions_that_do_not_fit_are_refused_with_a_way_out():
    with pytest.raises(gw.ConfigError, match="need an even d_model, and it is 7; use d_model 8, or learned positions"):
        model(d_model=7, position="sinusoidal", attention={"type": "softmax", "n_heads": 7})


@pytest.mark.parametrize("start", [0, 15, 16])
def test_learned_positions_end_by_themselves(start):
    """Not only in a model: a short slice would have been shared by all tokens, or have swallowed them."""
    config = model(position="learned")
    part = config.position.build(config.context(0))
    with pytest.raises(gw.GptwrightError, match=r"learned positions end at max_seq_len 16; shorten the input, or use"):
        part(torch.zeros(2, 17 - min(start, 15), 32), gw.Sequence.plain(2, 17 - min(start, 15), start=start))
