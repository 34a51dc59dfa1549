"""Latent attention against DeepSeek-V3's in transformers on the same weights, its cache and its refusals."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gptwright as gw
from gptwright.nn.attention.latent import Latent
from gptwright.nn.slots import POSITION
from gptwright.ops.latent_attention import expanded_attention

deepseek = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")

SIZES = {"n_heads": 4, "kv_rank": 12, "head_dim": 8, "rope_dim": 4, "value_dim": 6}
TIMES = 50
X = torch.randn(2, TIMES, 32, generator=torch.Generator().manual_seed(1))


def build(position="rotary", seed: int = 0, **settings) -> Latent:
    """Return a latent attention with weights that are not those at the beginning."""
    attention = {"type": "latent", **SIZES, **settings}
    base = {"d_model": 32, "n_layers": 1, "max_seq_len": 64, "attention": attention, "position": position}
    config = gw.ModelConfig.from_dict(base)
    part = config.attention.build(config.context(0)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, param in part.named_parameters():
            near = 1.0 if "norm" in name else 0.0
            param.copy_(near + 0.3 * torch.randn_like(param))
    return part


def plain(x: torch.Tensor, start: int = 0) -> gw.Sequence:
    return gw.Sequence.plain(*x.shape[:2], start=start)


def theirs(q_rank: int | None, interleave: bool, rope: dict) -> tuple[nn.Module, nn.Module]:
    """Return DeepSeek-V3's attention in the sizes above and its rotary positions."""
    settings = deepseek.DeepseekV3Config(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=q_rank,
        kv_lora_rank=12,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=6,
        rope_interleave=interleave,
        rope_parameters={"rope_theta": 100.0, **rope},
    )
    settings._attn_implementation = "eager"
    return deepseek.DeepseekV3Attention(settings, layer_idx=0).eval(), deepseek.DeepseekV3RotaryEmbedding(settings)


NAMES = {
    "q_a_proj": "q_down_proj",
    "q_a_layernorm": "q_norm",
    "q_b_proj": "q_up_proj",
    "kv_a_proj_with_mqa": "kv_down_proj",
    "kv_a_layernorm": "kv_norm",
    "kv_b_proj": "kv_up_proj",
}


def halves(weight: torch.Tensor, blocks: int, width: int = 4) -> torch.Tensor:
    """Put the last ``width`` rows of each block, pair by pair in DeepSeek's files, into the order of halves."""
    rows = weight.unflatten(0, (blocks, -1))
    kept, pairs = rows[:, :-width], rows[:, -width:]
    return torch.cat((kept, pairs[:, 0::2], pairs[:, 1::2]), 1).flatten(0, 1)


def copy_weights(other: nn.Module, part: Latent, interleave: bool) -> None:
    weights = {}
    for name, value in other.state_dict().items():
        owner, _, kind = name.partition(".")
        if interleave and owner in ("q_proj", "q_b_proj", "kv_a_proj_with_mqa"):
            value = halves(value, blocks=1 if owner.startswith("kv") else 4)
        weights[f"{NAMES.get(owner, owner)}.{kind}"] = value
    part.load_state_dict(weights)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize("interleave", [True, False])
@pytest.mark.parametrize("q_rank", [None, 10])
@pytest.mark.parametrize(
    ("rope", "scaling"),
    [({"rope_type": "default"}, None), (YARN, {"type": "yarn", "factor": 4.0, "original_max_seq_len": 16})],
    ids=["plain", "yarn"],
)
def test_it_is_deepseek_s(q_rank, interleave, rope, scaling):
    torch.manual_seed(0)
    other, angles = theirs(q_rank, interleave, rope)
    with torch.no_grad():
        for param in other.parameters():
            param.add_(0.3 * torch.randn_like(param))
    part = build({"type": "rotary", "theta": 100.0, "scaling": scaling}, q_rank=q_rank)
    copy_weights(other, part, interleave)
    mask = torch.full((TIMES, TIMES), -torch.inf).triu(1)[None, None]
    theirs_x, ours_x = X.clone().requires_grad_(), X.clone().requires_grad_()
    expected, _ = other(theirs_x, angles(X, torch.arange(TIMES)[None]), mask)
    found = part(ours_x, plain(X))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    (found.square().sum() + expected.square().sum()).backward()
    torch.testing.assert_close(ours_x.grad, theirs_x.grad, rtol=1e-4, atol=1e-4)
    state = part.init_state(2, TIMES)
    with torch.no_grad():
        fed = [(X[:, start:stop], start) for start, stop in ((0, 20), (20, 40), (40, 49), (49, 50))]
        pieces = [part(x, plain(x, start), state) for x, start in fed]
        torch.testing.assert_close(torch.cat(pieces, 1), expected.detach(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_cache_holds_latents_alone():
    part = build(q_rank=10)
    state = part.init_state(2, 64)
    out = torch.cat([part(X[:, :40], plain(X[:, :40]), state)] + [
        part(X[:, at : at + 1], plain(X[:, :1], at), state) for at in range(40, TIMES)
    ], 1)  # fmt: skip
    torch.testing.assert_close(out, part(X, plain(X)), rtol=1e-5, atol=1e-5)
    down = part.kv_down_proj(X)
    torch.testing.assert_close(state.k[:, 0, :TIMES], part.kv_norm(down[..., :12]))
    turned, _ = POSITION.resolve("rotary").Config().turn(down[:, None, :, 12:], down[:, None, :, 12:], plain(X))
    torch.testing.assert_close(state.v[:, :, :TIMES], turned)
    assert (state.k.shape, state.v.shape) == ((2, 1, 64, 12), (2, 1, 64, 4))


@torch.no_grad()
def test_a_token_at_a_time_expands_nothing():
    """What a further token in the cache costs is 2 c + p products a head, not an expansion of c x (d + e)."""
    part = build()
    assert part.absorbs(1)

    def flops(seen: int) -> int:
        state = part.init_state(1, 64)
        part(X[:1, :seen], plain(X[:1, :seen]), state)
        with FlopCounterMode(display=False) as counter:
            part(X[:1, :1], plain(X[:1, :1], seen), state)
        return counter.get_total_flops()

    assert flops(48) - flops(32) == 2 * 4 * 16 * (2 * 12 + 4)


def test_queries_are_absorbed_as_long_as_it_costs_less():
    wide, narrow = build(kv_rank=16), build(kv_rank=6)
    assert [n for n in (1, 12, 13, 200) if wide.absorbs(n)] == [1, 12]  # 16 * 14 / (32 - 14) = 12.4
    assert narrow.absorbs(10_000)


@pytest.mark.parametrize("position", ["none", "learned", "sinusoidal"])
@torch.no_grad()
def test_where_positions_do_not_turn_the_rest_is_plain_features(position):
    part = build(position)
    q, kept = part.project(X, plain(X))
    torch.testing.assert_close(kept.turned[:, 0], part.kv_down_proj(X)[..., 12:])
    queries = part.q_proj(X).unflatten(-1, (4, 12)).transpose(1, 2)
    torch.testing.assert_close(torch.cat(q, -1), queries)


@torch.no_grad()
def test_alibi_lowers_the_scores_of_what_is_far():
    part, bare = build("alibi"), build("none")
    assert part.slopes.tolist() == [0.25, 0.0625, 0.015625, 0.00390625]
    q, kept = bare.project(X, plain(X))
    at = torch.arange(TIMES)[None]
    up = bare.kv_up_proj.weight.unflatten(0, (4, -1))
    mixed = expanded_attention(q, kept, up, plain(X).visible(), scoring=part.scoring, positions=(at, at))
    torch.testing.assert_close(part(X, plain(X)), bare.merge(mixed))
    assert not torch.allclose(part(X, plain(X)), bare(X, plain(X)), atol=1e-3)


def test_sizes_by_default_are_in_deepseek_s_proportions():
    attention = {"type": "latent", "n_heads": 4}
    base = {"d_model": 512, "n_layers": 1, "max_seq_len": 64, "attention": attention, "position": "rotary"}
    config = gw.ModelConfig.from_dict(base)
    with torch.device("meta"):
        part = config.attention.build(config.context(0))
    assert (part.plain, part.value, part.turned, part.latent) == (128, 128, 64, 512)
    assert not any(param.ndim == 1 for name, param in part.named_parameters() if "norm" not in name)


@pytest.mark.parametrize("head_dim", [1, 2, 3, 6, 10])
def test_turned_features_are_even_by_default(head_dim):
    assert build(head_dim=head_dim, rope_dim=None).turned == {1: 2, 2: 2, 3: 2, 6: 2, 10: 4}[head_dim]


def test_biases_stand_where_the_input_is_projected():
    def biased(**settings):
        return {name.rpartition(".")[0] for name in build(**settings).state_dict() if name.endswith("bias")}

    assert biased(q_rank=10) == set()
    assert biased(q_rank=10, qkv_bias=True) == {"q_down_proj", "kv_down_proj"}
    assert biased(qkv_bias=True, out_bias=True) == {"q_proj", "kv_down_proj", "o_proj"}


def test_the_norm_of_latents_can_be_chosen():
    assert type(build(latent_norm="layer_norm").kv_norm).__name__ == "LayerNorm"
    assert build(q_rank=10).q_norm.weight.shape == (10,)
    assert build(q_rank=10).kv_norm.weight.shape == (12,)


@pytest.mark.parametrize("q_rank", [None, 10])
@pytest.mark.parametrize("position", ["rotary", "alibi"])
@torch.no_grad()
def test_slices_by_the_plan_sum_to_the_whole(q_rank, position):
    part = build(position, q_rank=q_rank, sinks=True)
    plan = part.config.tp_plan(part.ctx)
    slices = [sliced(part, plan, index) for index in range(2)]
    for state in (None, [one.init_state(2, TIMES) for one in slices]):
        outs = [one(X[:, :20], plain(X[:, :20]), state and state[i]) for i, one in enumerate(slices)]
        torch.testing.assert_close(sum(outs), part(X[:, :20], plain(X[:, :20])), rtol=1e-4, atol=1e-5)
    outs = [one(X[:, 20:21], plain(X[:, :1], 20), state[i]) for i, one in enumerate(slices)]
    torch.testing.assert_close(sum(outs), part(X[:, :21], plain(X[:, :21]))[:, 20:], rtol=1e-4, atol=1e-5)


def sliced(part: Latent, plan: dict[str, str], index: int) -> Latent:
    """Return one of two devices' attention."""
    twin = copy.deepcopy(part)
    for name, cut in plan.items():
        owner, key = (twin.get_submodule(name), "weight") if "proj" in name else (twin, name)
        whole = getattr(owner, key)
        piece = whole.chunk(2, 0 if cut == "colwise" else 1)[index].clone()
        setattr(owner, key, nn.Parameter(piece) if isinstance(whole, nn.Parameter) else piece)
    return twin


def test_attention_dropout_is_for_training_alone():
    part, same = build(attention_dropout=0.5), build()
    assert torch.equal(part(X, plain(X)), same(X, plain(X)))
    part.train()
    assert not torch.allclose(part(X, plain(X)), same(X, plain(X)), atol=1e-2)


@torch.no_grad()
def test_a_cache_may_be_smaller_than_the_weights():
    part = build()
    state = part.init_state(2, TIMES, dtype=torch.bfloat16)
    out = torch.cat([part(X[:, at : at + 1], plain(X[:, :1], at), state) for at in range(20)], 1)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, part(X[:, :20], plain(X[:, :20])), rtol=0.05, atol=0.05)


def test_bytes_of_state_are_a_fraction_of_those_of_keys_and_values():
    base = {"d_model": 512, "n_layers": 1, "max_seq_len": 64, "position": "rotary"}
    attentions = ({"type": "latent", "n_heads": 16, "kv_rank": 64, "rope_dim": 16}, {"type": "softmax", "n_heads": 16})
    latent, softmax = (gw.ModelConfig.from_dict({**base, "attention": found}) for found in attentions)
    assert latent.state_bytes(100) == 100 * (64 + 16) * 4
    assert softmax.state_bytes(100) == 100 * 1024 * 4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rope_dim": 5}, "attention.rope_dim: rope_dim 5 must be even, as positions turn pairs of features; use 4 or"),
        ({"rope_dim": 1}, "rope_dim 1 must be even, as positions turn pairs of features; use 2"),
        ({"n_heads": 5}, "n_heads 5 must divide d_model 32 where head_dim is not set; choose a divisor, or set he"),
        ({"position": {"type": "rotary", "fraction": 0.2}}, "attention.rope_dim: rotary positions turn pairs of feat"),
        ({"n_kv_heads": 2}, "n_kv_heads is impossible with latent attention"),
        ({"qk_norm": "rms_norm"}, "qk_norm is impossible with latent attention"),
        ({"window": 8}, "window is impossible with latent attention"),
        ({"value_residual": 0.5}, "latent attention has no such values"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(settings, sentence):
    model = {key: settings.pop(key) for key in ("position", "value_residual") if key in settings}
    attention = {"type": "latent", "n_heads": 4, **settings}
    base = {"d_model": 32, "n_layers": 1, "max_seq_len": 64, "position": "rotary"}
    with pytest.raises(gw.ConfigError) as refused:
        gw.ModelConfig.from_dict({**base, "attention": attention, **model})
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
