"""Linear attention against its formulas, one token after another, with every feature map and decay."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gptwright as gw
from gptwright.nn.attention.linear import EPS, Linear, retention, slow_gates
from gptwright.ops.reference import reference_paths

MAPS = ("elu", "relu", "identity")
DECAYS = ("none", "retention", "gated")
X = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(1))


def build(position="none", **settings) -> Linear:
    """Return a linear attention with weights that are not those at the beginning."""
    attention = {"type": "linear", "n_heads": 4, **settings}
    base = {"d_model": 32, "n_layers": 1, "max_seq_len": 64, "attention": attention, "position": position}
    config = gw.ModelConfig.from_dict(base)
    part = config.attention.build(config.context(0)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for param in part.parameters():
            param.add_(0.2 * torch.randn_like(param))
    return part


def plain(x: torch.Tensor, start: int = 0) -> gw.Sequence:
    return gw.Sequence.plain(*x.shape[:2], start=start)


def factors(part: Linear, x: torch.Tensor) -> torch.Tensor:
    """Return what each token leaves of the sums (B, T, H), as the papers write it."""
    if part.config.decay == "gated":
        return torch.sigmoid(x @ part.decay_proj.weight.T + part.decay_bias)
    fixed = [1 - 2.0 ** (-5 - h) if part.config.decay == "retention" else 1.0 for h in range(4)]
    return torch.tensor(fixed).expand(*x.shape[:2], -1)


@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize("decay", DECAYS)
@torch.no_grad()
def test_it_is_a_decaying_sum(feature_map, decay):
    part = build(feature_map=feature_map, decay=decay)
    q, k, v = (p(X).view(2, 20, 4, 8) for p in (part.q_proj, part.k_proj, part.v_proj))
    feature = {"elu": lambda x: F.elu(x) + 1, "relu": lambda x: F.relu(x) + 0.1, "identity": lambda x: x}[feature_map]
    q, k, left = feature(q), feature(k), factors(part, X)
    sums, norms, outs = torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8), []
    for t in range(20):
        sums = left[:, t, :, None, None] * sums + k[:, t, :, :, None] * v[:, t, :, None, :]
        norms = left[:, t, :, None] * norms + k[:, t]
        out = torch.einsum("bhd,bhde->bhe", q[:, t], sums)
        if feature_map == "identity":
            out = F.rms_norm(out / math.sqrt(8), (8,), eps=EPS)
        else:
            out = out / (q[:, t] * norms).sum(-1, keepdim=True)
        outs.append(out.flatten(1))
    expected = part.o_proj(torch.stack(outs, 1))
    torch.testing.assert_close(part(X, plain(X)), expected, rtol=1e-4, atol=1e-5)


def test_a_head_of_retention_forgets_more_slowly_than_the_one_before():
    torch.testing.assert_close(retention(3).exp(), torch.tensor([1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128]))
    assert retention(40)[-1] < 0  # where 1 - 2^-44 would be 1


def test_gates_begin_slow():
    torch.testing.assert_close(torch.sigmoid(slow_gates(3)), torch.tensor([1 - 1 / 32, 1 - 1 / 128, 1 - 1 / 512]))
    assert slow_gates(1).shape == (1,)
    part = gw.ModelConfig.from_dict(
        {
            "d_model": 32,
            "n_layers": 1,
            "max_seq_len": 8,
            "attention": {"type": "linear", "n_heads": 3, "decay": "gated"} | {"head_dim": 8},
            "vocab_size": 5,
        }
    )
    model = gw.GPT(part)
    torch.testing.assert_close(model.layers[0].attention.decay_bias.detach(), slow_gates(3))


def test_decays_are_fp32_in_a_bf16_model():
    part = build(decay="retention").to(torch.bfloat16)
    assert part.log_decay.dtype == torch.float32
    torch.testing.assert_close(part.log_decay, retention(4), rtol=0, atol=0)
    gated = build(decay="gated").to(torch.bfloat16)
    assert gated.log_decays(X.bfloat16()).dtype == torch.float32
    assert part(X.bfloat16(), plain(X)).dtype == torch.bfloat16


@pytest.mark.parametrize("decay", DECAYS)
def test_a_decay_is_not_in_checkpoints_unless_it_is_learned(decay):
    names = {name for name in build(decay=decay).state_dict() if "decay" in name}
    assert names == ({"decay_proj.weight", "decay_bias"} if decay == "gated" else set())


@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize("decay", DECAYS)
@torch.no_grad()
def test_a_state_never_grows(feature_map, decay):
    part = build("rotary", feature_map=feature_map, decay=decay)
    state = part.init_state(2, 10)
    begun = state.nbytes
    assert begun == 2 * part.config.state_bytes(part.ctx, 10)
    out = part(X[:, :10], plain(X[:, :10]), state)
    outs = [part(X[:, at : at + 1], plain(X[:, :1], at), state) for at in range(10, 20)]
    assert state.nbytes == begun
    assert sum(x.untyped_storage().nbytes() for x in state.memory) == begun
    torch.testing.assert_close(torch.cat((out, *outs), 1), part(X, plain(X)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize("decay", DECAYS)
@torch.no_grad()
def test_slices_by_the_plan_sum_to_the_whole(feature_map, decay):
    part = build("rotary", feature_map=feature_map, decay=decay, n_kv_heads=2)
    slices = [sliced(part, index) for index in range(2)]
    states = [one.init_state(2, 20) for one in slices]
    for x, seq in ((X[:, :19], plain(X[:, :19])), (X[:, 19:], plain(X[:, 19:], 19))):
        outs = [one(x, seq, state) for one, state in zip(slices, states, strict=True)]
    torch.testing.assert_close(sum(outs), part(X, plain(X))[:, 19:], rtol=1e-4, atol=1e-5)


def sliced(part: Linear, index: int) -> Linear:
    """Return one of two devices' attention."""
    twin = copy.deepcopy(part)
    for name, cut in part.config.tp_plan(part.ctx).items():
        owner, key = (twin.get_submodule(name), "weight") if "proj" in name else (twin, name)
        whole = getattr(owner, key)
        piece = whole.chunk(2, 0 if cut == "colwise" else 1)[index].clone()
        setattr(owner, key, nn.Parameter(piece) if isinstance(whole, nn.Parameter) else piece)
    return twin


def test_the_plan_names_what_a_head_has_of_its_own():
    own = {decay: set(build(decay=decay).config.tp_plan(None)) for decay in DECAYS}
    assert own["retention"] - own["none"] == {"log_decay"}
    assert own["gated"] - own["none"] == {"decay_proj", "decay_bias"}


def test_a_reference_path_stands_beside():
    part = build(decay="gated")
    with reference_paths():
        slow = part(X, plain(X))
    torch.testing.assert_close(part(X, plain(X)), slow, rtol=1e-4, atol=1e-5)
    assert not torch.equal(part(X, plain(X)), slow)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"window": 8}, "window is impossible with linear attention, whose memory holds all tokens"),
        ({"softcap": 5.0}, "softcap is impossible with linear attention, which forms no scores to bound"),
        ({"decay": "slow"}, "decay"),
        ({"feature_map": "gelu"}, "feature_map"),
        ({"n_heads": 5}, "n_heads 5 must divide d_model 32"),
    ],
)
def test_what_does_not_fit_is_refused(settings, sentence):
    with pytest.raises(gw.ConfigError) as refused:
        build(**settings)
    assert sentence in str(refused.value)


def test_a_sum_cannot_be_taken_back():
    part = build()
    state = part.init_state(2, 20)
    part(X, plain(X), state)
    state.truncate(20)
    with pytest.raises(gw.Unsupported, match="a recurrent state is a sum over its 20 tokens and cannot go back to 19"):
        state.truncate(19)
