"""Components against torch's own and against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gptwright as gw
from gptwright.nn.slots import ATTENTION, FEED_FORWARD, NORM, POSITION

BASE = {"vocab_size": 7, "d_model": 8, "n_layers": 1, "max_seq_len": 12}
OFFSET = {"norm": {"type": "rms_norm", "unit_offset": True}}


def build(slot, settings, **model):
    """Return one component for a model of width 8, with weights that are not those at the beginning."""
    attention = {"attention": {"type": "softmax", "n_heads": 2}}
    ctx = gw.ModelConfig.from_dict({**BASE, **attention, **model}).context(0)
    part = slot.resolve(settings["type"]).Config.from_dict(settings).build(ctx)
    torch.manual_seed(0)
    with torch.no_grad():
        for param in part.parameters():
            param.copy_(torch.randn_like(param))
    return part


def plain(x: torch.Tensor) -> gw.Sequence:
    return gw.Sequence.plain(*x.shape[:2])


X = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))


def test_softmax_is_torch_s_multi_head_attention():
    part = build(ATTENTION, {"type": "softmax", "n_heads": 2}, bias=True)
    other = nn.MultiheadAttention(8, 2, batch_first=True)
    projections = (part.q_proj, part.k_proj, part.v_proj)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        other.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        other.out_proj.load_state_dict(part.o_proj.state_dict())
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected, _ = other(X, X, X, attn_mask=future, need_weights=False)
    torch.testing.assert_close(part(X, plain(X)), expected, rtol=1e-4, atol=1e-4)


def test_grouped_heads_are_heads_that_share_keys_and_values():
    grouped = build(ATTENTION, {"type": "softmax", "n_heads": 4, "n_kv_heads": 2})
    full = build(ATTENTION, {"type": "softmax", "n_heads": 4})
    with torch.no_grad():
        full.q_proj.weight.copy_(grouped.q_proj.weight)
        full.o_proj.weight.copy_(grouped.o_proj.weight)
        for name in ("k_proj", "v_proj"):
            shared = getattr(grouped, name).weight.view(2, 1, 2, 8).expand(2, 2, 2, 8).reshape(8, 8)
            getattr(full, name).weight.copy_(shared)
    torch.testing.assert_close(grouped(X, plain(X)), full(X, plain(X)), rtol=1e-4, atol=1e-4)


def test_a_window_wider_than_the_text_is_softmax():
    local = build(ATTENTION, {"type": "local", "n_heads": 2, "window": 9})
    softmax = build(ATTENTION, {"type": "softmax", "n_heads": 2})
    torch.testing.assert_close(local(X, plain(X)), softmax(X, plain(X)))
    near = build(ATTENTION, {"type": "local", "n_heads": 2, "window": 8})
    assert not torch.allclose(near(X, plain(X))[:, 8], softmax(X, plain(X))[:, 8])
    torch.testing.assert_close(near(X, plain(X))[:, :8], softmax(X, plain(X))[:, :8])


def test_linear_attention_is_a_running_mean_of_values():
    part = build(ATTENTION, {"type": "linear", "n_heads": 1})
    q, k, v = part.q_proj(X), part.k_proj(X), part.v_proj(X)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    out = torch.empty_like(X)
    for t in range(9):
        weights = torch.einsum("bd,bsd->bs", q[:, t], k[:, : t + 1])
        out[:, t] = torch.einsum("bs,bsd->bd", weights / weights.sum(-1, keepdim=True), v[:, : t + 1])
    torch.testing.assert_close(part(X, plain(X)), part.o_proj(out), rtol=1e-4, atol=1e-4)


def test_query_and_key_norms_come_before_positions():
    settings = {"type": "softmax", "n_heads": 2, "qk_norm": {"type": "rms_norm", "eps": 1e-6}}
    part = build(ATTENTION, settings, position="rotary")
    q, k, v = (p(X).unflatten(-1, (2, 4)).transpose(1, 2) for p in (part.q_proj, part.k_proj, part.v_proj))
    q, k = (F.rms_norm(x, (4,), norm.weight, 1e-6) for x, norm in ((q, part.q_norm), (k, part.k_norm)))
    angles = torch.arange(9)[:, None] * torch.tensor([1.0, 1e-2])
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    q, k = (x * cos + torch.cat((-x[..., 2:], x[..., :2]), -1) * sin for x in (q, k))
    scores = (q @ k.mT / 2).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
    expected = part.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(part(X, plain(X)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu", F.gelu),
        ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("quick_gelu", lambda x: x / (1 + torch.exp(-1.702 * x))),
        ("relu", F.relu),
        ("relu_squared", lambda x: F.relu(x) ** 2),
        ("silu", F.silu),
        ("tanh", torch.tanh),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_mlp(name, function, bias):
    part = build(FEED_FORWARD, {"type": "mlp", "activation": name, "d_ff": 6, "bias": bias})
    up, down = part.up_proj, part.down_proj
    hidden = function(F.linear(X, up.weight, up.bias if bias else None))
    expected = F.linear(hidden, down.weight, down.bias if bias else None)
    torch.testing.assert_close(part(X, plain(X)), expected)
    assert (up.bias is not None) == bias


@pytest.mark.parametrize(
    ("name", "function"), [("silu", F.silu), ("gelu", F.gelu), ("relu", F.relu), ("tanh", torch.tanh)]
)
def test_glu(name, function):
    part = build(FEED_FORWARD, {"type": "glu", "activation": name, "d_ff": 6})
    gate, up, down = (p.weight for p in (part.gate_proj, part.up_proj, part.down_proj))
    torch.testing.assert_close(part(X, plain(X)), (function(X @ gate.T) * (X @ up.T)) @ down.T)


def test_inner_widths_by_default():
    assert build(FEED_FORWARD, {"type": "mlp"}).up_proj.out_features == 32
    assert build(FEED_FORWARD, {"type": "glu"}).up_proj.out_features == 24  # 8/3 of 8, rounded up to 8


def test_moe_by_hand():
    settings = {"type": "moe", "n_experts": 4, "top_k": 2, "d_ff": 6, "n_shared": 1}
    part = build(FEED_FORWARD, settings)
    probs = (X @ part.router.weight.T).softmax(-1)
    expected = torch.zeros_like(X)
    for row in range(2):
        for t in range(9):
            best = probs[row, t].topk(2)
            for weight, expert in zip(best.values / best.values.sum(), best.indices, strict=True):
                x = X[row : row + 1, t : t + 1]
                expected[row, t] += weight * part.experts[int(expert)](x, plain(x))[0, 0]
    expected = expected + part.shared[0](X, plain(X))
    torch.testing.assert_close(part(X, plain(X)), expected, rtol=1e-4, atol=1e-3)


def test_moe_asks_for_balance_in_training_alone():
    part = build(FEED_FORWARD, {"type": "moe", "n_experts": 4, "balance_weight": 0.5})
    seq = plain(X)
    part.eval()(X, seq)
    assert seq.aux_losses == []
    part.train()(X, seq)
    assert len(seq.aux_losses) == 1
    assert 0.25 < seq.aux_losses[0].item() < 2  # the weight, times 1 when balanced and 4 when one takes all


def test_moe_balance_does_not_see_padding():
    part = build(FEED_FORWARD, {"type": "moe", "n_experts": 4}).train()
    mask = torch.arange(9).expand(2, 9) >= 3
    padded, alone = gw.Sequence.padded(mask), plain(X[:, 3:])
    part(torch.where(mask[..., None], X, 1e3 * X), padded)
    part(X[:, 3:], alone)
    torch.testing.assert_close(padded.aux_losses[0], alone.aux_losses[0])


def test_experts_have_a_width_once():
    moe = {"type": "moe", "n_experts": 2, "d_ff": 6, "expert": {"type": "mlp", "d_ff": 99}}
    assert build(FEED_FORWARD, moe).experts[1].up_proj.out_features == 6


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_is_torch_s(bias):
    part = build(NORM, {"type": "layer_norm", "bias": bias, "eps": 1e-3})
    torch.testing.assert_close(part(X), F.layer_norm(X, (8,), part.weight, part.bias, 1e-3))
    assert (part.bias is not None) == bias


def test_rms_norm_is_torch_s():
    part = build(NORM, {"type": "rms_norm", "eps": 1e-3})
    torch.testing.assert_close(part(X), F.rms_norm(X, (8,), part.weight, 1e-3))


def test_rms_norm_with_an_offset_is_gemma_s():
    gemma = pytest.importorskip("transformers.models.gemma.modeling_gemma")
    part, other = build(NORM, {"type": "rms_norm", "unit_offset": True}), gemma.GemmaRMSNorm(8, 1e-6)
    other.load_state_dict(part.state_dict())
    torch.testing.assert_close(part(X), other(X))


def test_rms_norm_with_an_offset_begins_at_one():
    model = gw.GPT(gw.ModelConfig.from_dict({**BASE, **OFFSET, "attention": {"type": "softmax", "n_heads": 2}}))
    assert not any(weight.any() for name, weight in model.named_parameters() if "norm" in name)
    torch.testing.assert_close(model.final_norm(X), F.rms_norm(X, (8,), eps=1e-6))


def test_an_offset_without_a_scale_is_refused():
    norm = {**OFFSET["norm"], "scale": False}
    with pytest.raises(gw.ConfigError, match="unit_offset true adds 1 to the learned scale, and scale is false; leave"):
        gw.ModelConfig.from_dict({**BASE, "norm": norm, "attention": {"type": "softmax", "n_heads": 2}})


def test_scale_norm_gives_every_vector_one_length():
    part = build(NORM, {"type": "scale_norm"})
    torch.testing.assert_close(part(X).norm(dim=-1), part.weight.abs().expand(2, 9))
    torch.testing.assert_close(F.cosine_similarity(part(X), X * part.weight.sign(), dim=-1), torch.ones(2, 9))
    assert torch.isfinite(part(torch.zeros(1, 1, 8))).all()


def test_sinusoids():
    part = build(POSITION, {"type": "sinusoidal", "theta": 100.0, "scale": 0.5})
    waves = part(torch.zeros(1, 9, 8), gw.Sequence.plain(1, 9))[0]
    for position in range(9):
        for pair in range(4):
            angle = position / 100.0 ** (2 * pair / 8)
            found = waves[position, 2 * pair : 2 * pair + 2].tolist()
            assert found == pytest.approx([0.5 * math.sin(angle), 0.5 * math.cos(angle)], abs=1e-5)


def test_learned_positions_are_rows_of_a_table():
    part = build(POSITION, {"type": "learned"})
    torch.testing.assert_close(part(X, plain(X)), X + part.weight[:9])
    seq = gw.Sequence.packed(torch.tensor([[3, 3, 3, 4, 4, 4, 4, 0, 0]] * 2))
    rows = torch.tensor([0, 1, 2, 0, 1, 2, 3, 0, 0])
    torch.testing.assert_close(part(X, seq), X + part.weight[rows])


def test_no_positions_change_nothing():
    assert torch.equal(build(POSITION, {"type": "none"})(X, plain(X)), X)


def test_order_matters_to_a_model_with_positions():
    ids = torch.tensor([[1, 2, 3, 4]])
    for position, differs in (("learned", True), ("sinusoidal", True), ("rotary", True), ("none", False)):
        settings = {**BASE, "attention": {"type": "softmax", "n_heads": 2}, "position": position, "init": {"std": 0.3}}
        torch.manual_seed(0)
        model = gw.GPT(gw.ModelConfig.from_dict(settings))
        last, swapped = model(ids)[0, -1], model(ids[:, [1, 0, 2, 3]])[0, -1]
        assert torch.allclose(last, swapped, atol=1e-5) != differs
