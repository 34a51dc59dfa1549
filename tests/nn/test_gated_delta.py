"""Gated delta attention against Qwen3-Next's in transformers on the same weights, its state and its refusals."""

import copy
import math

import pytest
import torch
from torch import nn

import gptwright as gw
from gptwright.nn.attention.gated_delta import GatedDelta, decay_rates
from gptwright.ops.reference import reference_paths

qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")

TIMES = 80
X = torch.randn(2, TIMES, 32, generator=torch.Generator().manual_seed(1))


def build(position="none", model=None, **settings) -> GatedDelta:
    """Return a gated delta attention with weights that are not those at the beginning."""
    attention = {"type": "gated_delta", "n_heads": 4, **settings}
    base = {"d_model": 32, "n_layers": 1, "max_seq_len": 128, "attention": attention, "position": position}
    config = gw.ModelConfig.from_dict({**base, **(model or {})})
    torch.manual_seed(0)
    part = config.attention.build(config.context(0)).eval()
    with torch.no_grad():
        for param in part.parameters():
            param.add_(0.2 * torch.randn_like(param))
    return part


def plain(x: torch.Tensor, start: int = 0) -> gw.Sequence:
    return gw.Sequence.plain(*x.shape[:2], start=start)


def theirs(key_heads: int, value_dim: int) -> nn.Module:
    """Return Qwen3-Next's layer with four heads of values and random weights."""
    config = qwen.Qwen3NextConfig(
        hidden_size=32,
        linear_num_value_heads=4,
        linear_num_key_heads=key_heads,
        linear_key_head_dim=8,
        linear_value_head_dim=value_dim,
        linear_conv_kernel_dim=4,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        rms_norm_eps=1e-6,
    )
    torch.manual_seed(2)
    layer = qwen.Qwen3NextGatedDeltaNet(config, layer_idx=0).eval()
    with torch.no_grad():
        for param in layer.parameters():
            param.add_(0.2 * torch.randn_like(param))
    return layer


def load(part: GatedDelta, layer: nn.Module, key_heads: int, value_dim: int) -> None:
    """Copy the weights of ``layer``, whose projections are fused by key head, into ``part``."""
    group = 4 // key_heads
    by_head = layer.in_proj_qkvz.weight.unflatten(0, (key_heads, -1))
    q, k, v, z = (x.flatten(0, 1) for x in by_head.split([8, 8, group * value_dim, group * value_dim], 1))
    b, a = (x.flatten(0, 1) for x in layer.in_proj_ba.weight.unflatten(0, (key_heads, -1)).split([group, group], 1))
    convs = layer.conv1d.weight[:, 0].split([len(q), len(k), len(v)])
    names = ("q_proj", "k_proj", "v_proj", "gate_proj", "b_proj", "a_proj", "o_proj", "out_norm")
    weights = dict(zip(names, (q, k, v, z, b, a, layer.out_proj.weight, layer.norm.weight), strict=True))
    own = {f"{name}.weight": weight for name, weight in weights.items()}
    own |= dict(zip(("q_conv", "k_conv", "v_conv"), convs, strict=True)) | {
        "A_log": layer.A_log,
        "dt_bias": layer.dt_bias,
    }
    part.load_state_dict(own)


@pytest.mark.parametrize(("key_heads", "value_dim"), [(4, 8), (2, 12), (1, 8)])
def test_it_is_qwen3_next_s(key_heads, value_dim):
    layer = theirs(key_heads, value_dim)
    norm = {"type": "rms_norm", "eps": 1e-6}
    part = build(n_key_heads=key_heads, head_dim=8, value_dim=value_dim, out_norm=norm)
    load(part, layer, key_heads, value_dim)
    expected, found = layer(X), part(X, plain(X))
    assert float((found - expected).detach().abs().max() / expected.detach().abs().max()) < 1e-5
    upstream = torch.linspace(-1, 1, expected.numel()).view_as(expected).cos()
    for out in (expected, found):
        (out * upstream).sum().backward()
    loaded = copy.deepcopy(part)
    for param in layer.parameters():
        param.data.copy_(param.grad)
    load(loaded, layer, key_heads, value_dim)  # gradients are fused as weights are
    for (name, param), other in zip(part.named_parameters(), loaded.parameters(), strict=True):
        worst = float((param.grad - other).detach().abs().max() / other.detach().abs().max())
        assert worst < 1e-4, f"{name}: {worst:.1e}"


@torch.no_grad()
def test_their_padding_on_the_left_is_ours():
    layer, part = theirs(4, 8), build(head_dim=8, out_norm={"type": "rms_norm", "eps": 1e-6})
    load(part, layer, 4, 8)
    mask = torch.arange(TIMES).expand(2, -1) >= torch.tensor([[0], [13]])
    expected, found = layer(X, attention_mask=mask), part(X, gw.Sequence.padded(mask))
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-4, atol=1e-5)


SETTINGS = (
    {},
    {"n_key_heads": 2, "head_dim": 6, "value_dim": 10, "conv_size": 3, "allow_neg_eigval": True},
    {"conv_size": 0, "gate": False},
    {"conv_size": 1, "out_norm": "layer_norm"},
)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_state_never_grows(settings, dtype):
    part = build("rotary", **settings).to(dtype)
    x, state = X.to(dtype), part.init_state(2, 10)
    begun = state.nbytes
    assert begun == 2 * part.config.state_bytes(part.ctx, 10, element_size=dtype.itemsize)
    assert state.memory.values.dtype == torch.float32
    out = part(x[:, :70], plain(x[:, :70]), state)
    outs = [part(x[:, at : at + 1], plain(x[:, :1], at), state) for at in range(70, TIMES)]
    assert state.nbytes == begun
    assert sum(held.untyped_storage().nbytes() for held in state.memory) == begun
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(torch.cat((out, *outs), 1), part(x, plain(x)), rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("settings", SETTINGS)
@torch.no_grad()
def test_slices_by_the_plan_sum_to_the_whole(settings):
    part = build("rotary", **settings)
    slices = [sliced(part, index) for index in range(2)]
    states = [one.init_state(2, 20) for one in slices]
    for x, seq in ((X[:, :70], plain(X[:, :70])), (X[:, 70:], plain(X[:, 70:], 70))):
        outs = [one(x, seq, state) for one, state in zip(slices, states, strict=True)]
    torch.testing.assert_close(sum(outs), part(X, plain(X))[:, 70:], rtol=1e-4, atol=1e-5)


def sliced(part: GatedDelta, index: int) -> GatedDelta:
    """Return one of two devices' attention."""
    twin = copy.deepcopy(part)
    for name, cut in part.config.tp_plan(part.ctx).items():
        owner, key = (twin.get_submodule(name), "weight") if "proj" in name else (twin, name)
        piece = getattr(owner, key).chunk(2, 0 if cut == "colwise" else 1)[index].clone()
        setattr(owner, key, nn.Parameter(piece))
    return twin


def test_the_plan_names_every_weight_but_the_norm_of_a_head():
    for settings in SETTINGS:
        part = build(**settings)
        plan = part.config.tp_plan(part.ctx)
        cut = {name for name, _ in part.named_parameters() if name in plan or name.rpartition(".")[0] in plan}
        assert {name for name, _ in part.named_parameters()} - cut <= {"out_norm.weight", "out_norm.bias"}


@torch.no_grad()
def test_values_of_the_first_layer_reach_the_second():
    """They are mixed before the convolution, so that the state of a later layer holds mixed ones."""
    attention = {"type": "gated_delta", "n_heads": 4}
    base = {"vocab_size": 11, "d_model": 32, "n_layers": 2, "max_seq_len": 64, "init": {"std": 0.2}}
    torch.manual_seed(0)
    model = gw.GPT(gw.ModelConfig.from_dict({**base, "attention": attention, "value_residual": 0.5})).eval()
    without = gw.GPT(gw.ModelConfig.from_dict({**base, "attention": attention})).eval()
    without.load_state_dict(model.state_dict())
    ids = torch.arange(20)[None] % 11
    full = model(ids)
    assert not torch.allclose(full, without(ids), atol=1e-2)
    states = model.init_states(batch=1, length=20)
    pieces = [model(ids[:, a:b], states=states) for a, b in ((0, 7), (7, 8), (8, 20))]
    torch.testing.assert_close(torch.cat(pieces, 1), full, rtol=1e-4, atol=1e-4)


def test_a_reference_path_stands_beside():
    part = build("rotary")
    with reference_paths():
        slow = part(X, plain(X))
    torch.testing.assert_close(part(X, plain(X)), slow, rtol=1e-4, atol=1e-5)
    assert not torch.equal(part(X, plain(X)), slow)


@torch.no_grad()
def test_negative_eigenvalues_double_the_strength():
    part, twice = build(), build(allow_neg_eigval=True)
    torch.testing.assert_close(2 * part.rates(X)[0], twice.rates(X)[0])
    torch.testing.assert_close(part.rates(X)[1], twice.rates(X)[1])
    assert not torch.allclose(part(X, plain(X)), twice(X, plain(X)), atol=1e-2)


def test_rates_begin_as_in_the_authors_code():
    torch.manual_seed(0)
    speed, step = decay_rates(2000)
    assert 0.01 <= float(speed.exp().min()) < 0.1
    assert 15.9 < float(speed.exp().max()) <= 16
    steps = nn.functional.softplus(step).log10()
    assert float(steps.min()) == pytest.approx(-3, abs=0.01)
    assert float(steps.max()) == pytest.approx(-1, abs=0.01)
    assert float(steps.mean()) == pytest.approx(-2, abs=0.05)
    config = {"vocab_size": 5, "d_model": 32, "n_layers": 1, "max_seq_len": 8, "init": {"std": 9.0}}
    model = gw.GPT(gw.ModelConfig.from_dict({**config, "attention": {"type": "gated_delta", "n_heads": 4}}))
    attention = model.layers[0].attention
    assert float(attention.A_log.detach().max()) <= math.log(16)
    assert float(attention.q_conv.detach().abs().max()) <= 0.5


def test_rates_are_fp32_in_a_bf16_model():
    part = build().to(torch.bfloat16)
    assert {x.dtype for x in part.rates(X.bfloat16())} == {torch.float32}
    assert part(X.bfloat16(), plain(X)).dtype == torch.bfloat16


def test_biases_stand_where_they_are_asked_for():
    biased = {
        key: {name.removesuffix(".bias") for name, _ in build(**settings).named_parameters() if name.endswith(".bias")}
        for key, settings in {"none": {}, "qkv": {"qkv_bias": True}, "all": {"model": {"bias": True}}}.items()
    }
    assert biased["none"] == set()
    assert biased["qkv"] == {"q_proj", "k_proj", "v_proj", "gate_proj"}
    assert biased["all"] == biased["qkv"] | {"o_proj"}


def test_flops_are_those_of_the_recurrence():
    """A decoded token: projections, and per head erasing, writing and reading a matrix."""
    part = build(n_key_heads=2, head_dim=8, value_dim=12)
    matrices = sum(p.numel() for name, p in part.named_parameters() if p.ndim == 2 and "conv" not in name)
    assert part.config.flops_per_token(part.ctx, 10**6) == 2 * matrices + 6 * 4 * 8 * 12


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"n_heads": 5},
            "n_heads 5 must divide d_model 32 where head_dim is not set; choose a divisor, or set head_dim",
        ),
        ({"n_key_heads": 3}, "n_key_heads 3 must divide n_heads 4, so that each serves as many heads of values"),
        (
            {"n_kv_heads": 2},
            "n_kv_heads is impossible with gated_delta attention, as each head of values has a memory",
        ),
        ({"qk_norm": "rms_norm"}, "qk_norm is impossible with gated_delta attention, which gives queries and keys the"),
        ({"window": 8}, "window is impossible with gated_delta attention, whose memory holds all tokens"),
        ({"softcap": 5.0}, "softcap is impossible with gated_delta attention, which forms no scores to bound"),
        ({"sinks": True}, "sinks are impossible with gated_delta attention, which has no softmax"),
        (
            {"position": "alibi"},
            "alibi positions are subtracted from attention scores, and gated_delta attention takes",
        ),
        ({"position": "rotary", "head_dim": 7}, "rotary positions need an even head_dim, and it is 7"),
        ({"conv_size": -1}, "conv_size"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(settings, sentence):
    with pytest.raises(gw.ConfigError) as refused:
        build(**settings)
    assert sentence in str(refused.value)


def test_what_was_written_cannot_be_taken_back():
    part = build()
    state = part.init_state(2, TIMES)
    part(X, plain(X), state)
    with pytest.raises(gw.Unsupported, match="a recurrent state is a sum over its 80 tokens and cannot go back to 79"):
        state.truncate(79)
