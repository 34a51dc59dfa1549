"""Mixture of experts: routing options, counting who is visited, experts of any kind, and the same in one graph."""

import copy

import pytest
import torch
from torch import nn
from transformers import DeepseekV3Config, MixtralConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

import gptwright as gw
from gptwright.check.compiled import compiled_equals_eager
from gptwright.check.models import build as model_of
from gptwright.check.models import tokens
from gptwright.check.tensor_parallel import slices_sum_to_the_whole
from gptwright.nn.base import FeedForward
from gptwright.nn.slots import FEED_FORWARD
from gptwright.ops.moe import route

# torch says this about itself whenever it traces an autograd function
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

WIDTH = 16
BASE = {"vocab_size": 7, "d_model": WIDTH, "n_layers": 1, "max_seq_len": 64, "attention": "softmax"}


class Noisy(FeedForward):
    """A stranger's expert: it drops out, and works on where a token stands."""

    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.proj = nn.Linear(ctx.d_model, ctx.d_model)

    def forward(self, x, seq):
        assert seq.positions.shape == seq.segments.shape == x.shape[:2]
        here = nn.functional.dropout(self.proj(x), 0.5, self.training)
        return here * torch.cos(seq.positions + 2.0 * seq.segments)[..., None]


NOISY = f"{__name__}:Noisy"
NESTED = {"type": "moe", "n_experts": 3, "top_k": 2, "d_ff": 8}


def context():
    return gw.ModelConfig.from_dict(BASE | {"attention": {"type": "softmax", "n_heads": 2}}).context(0)


def moe(**settings):
    """Return a mixture with weights that matter."""
    config = FEED_FORWARD.resolve("moe").Config.from_dict({"type": "moe", "n_experts": 4, "d_ff": 24, **settings})
    part = config.build(context())
    torch.manual_seed(0)
    with torch.no_grad():
        for param in part.parameters():
            param.copy_(0.3 * torch.randn_like(param))
    return part


def drawn(batch=2, length=40):
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(1))


def plain(x):
    return gw.Sequence.plain(*x.shape[:2])


def fill(part, other, router):
    """Put the weights of ``part`` into the block ``other`` of transformers."""
    with torch.no_grad():
        router.weight.copy_(part.router.weight)
        gates = [torch.cat((each.gate_proj.weight, each.up_proj.weight)) for each in part.experts]
        other.experts.gate_up_proj.copy_(torch.stack(gates))
        other.experts.down_proj.copy_(torch.stack([each.down_proj.weight for each in part.experts]))


def assert_same(part, other, x):
    """Compare results and the gradients of input, router and experts."""
    sides = []
    for run, router in ((lambda x: part(x, plain(x)), part.router), (other, other.gate)):
        leaf = x.clone().requires_grad_()
        out = run(leaf)
        out.square().sum().backward()
        sides.append((out, leaf.grad, router.weight.grad))
    downs = torch.stack([each.down_proj.weight.grad for each in part.experts])
    sides[0] += (downs,)
    sides[1] += (other.experts.down_proj.grad,)
    for found, expected in zip(*sides, strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("top_k", [2, 3])
def test_softmax_is_mixtral(top_k):
    part = moe(top_k=top_k).eval()
    settings = {"hidden_size": WIDTH, "intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": top_k}
    other = MixtralSparseMoeBlock(MixtralConfig(**settings)).eval()
    fill(part, other, other.gate)
    assert_same(part, other, drawn())


@pytest.mark.parametrize("normalise", [True, False])
def test_sigmoid_with_a_bias_and_shared_experts_is_deepseek_v3(normalise):
    settings = {"router": "sigmoid", "balance": "bias", "scale": 2.5, "normalise": normalise, "n_shared": 2}
    part = moe(n_experts=8, top_k=3, **settings).eval()
    config = DeepseekV3Config(
        hidden_size=WIDTH,
        moe_intermediate_size=24,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_shared_experts=2,
        n_group=1,
        topk_group=1,
        norm_topk_prob=normalise,
        routed_scaling_factor=2.5,
    )
    other = DeepseekV3MoE(config).eval()
    part.expert_bias.copy_(0.2 * torch.randn(8, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        for name in ("gate_proj", "up_proj"):
            stacked = [getattr(each, name).weight for each in part.shared]
            getattr(other.shared_experts, name).weight.copy_(torch.cat(stacked))
        other.shared_experts.down_proj.weight.copy_(torch.cat([each.down_proj.weight for each in part.shared], 1))
        other.gate.e_score_correction_bias.copy_(part.expert_bias)
    fill(part, other, other.gate)
    assert_same(part, other, drawn())
    before = part(drawn(), plain(drawn()))
    part.expert_bias.zero_()
    assert not torch.allclose(part(drawn(), plain(drawn())), before), "the bias chose nothing"


def test_real_tokens_are_counted_in_training_alone():
    part, x = moe(top_k=2), drawn()
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[0, :7] = False
    part.eval()(x, plain(x))
    assert part.load.sum() == 0
    part.train()(x, gw.Sequence.padded(mask))
    alone = moe(top_k=2).train()
    alone(x[mask][None], plain(x[mask][None]))
    assert part.load.sum() == 2 * mask.sum()
    assert torch.equal(part.load, alone.load)
    part(x, plain(x))
    assert part.load.sum() == 2 * (mask.sum() + 80)


def test_tokens_are_counted_once_though_a_layer_is_computed_again():
    part, x = moe().train(), drawn()
    seq = plain(x)
    for _ in range(2):
        part(x, seq)
    assert part.load.sum() == 2 * 80
    part(x, plain(x))
    assert part.load.sum() == 4 * 80


def test_after_a_step_the_largest_load_is_told_and_forgotten():
    part, x = moe(), drawn()
    part.train()(x, plain(x))
    load = part.load.clone()
    assert part.after_step() == {"expert_load": pytest.approx(float(load.max() / load.mean()))}
    assert part.load.sum() == 0
    assert part.after_step() == {}


@pytest.mark.parametrize(("rate", "moves"), [(None, 0.01), (0.2, 0.2), (0.0, 0.0)])
def test_biases_follow_the_loads(rate, moves):
    part, x = moe(balance="bias", balance_rate=rate), drawn()
    part.train()(x, plain(x))
    over = (1 - part.load / part.load.mean()).clamp(-1, 1)
    part.after_step()
    torch.testing.assert_close(part.expert_bias, moves * (over - over.mean()))
    assert bool(part.expert_bias.any()) == bool(moves)
    assert "expert_bias" in part.state_dict()
    assert "load" not in part.state_dict()
    part.eval()(x, plain(x))
    before = part.expert_bias.clone()
    part.after_step()
    assert torch.equal(part.expert_bias, before)


def test_biases_balance_what_is_uneven():
    """Many steps on the same tokens, without any learning."""
    part, x = moe(n_experts=6, balance="bias", balance_rate=0.02), drawn(4, 60)
    part.expert_bias[0] = 0.3
    seen = []
    for _ in range(40):
        part.train()(x, plain(x))
        seen.append(part.after_step()["expert_load"])
    assert seen[0] > 2
    assert max(seen[-3:]) < 1.2


@pytest.mark.parametrize("settings", [{"balance": "bias"}, {}])
def test_counts_and_biases_stay_in_fp32(settings):
    part = moe(**settings)
    part.load += 1001
    low = copy.deepcopy(part).to(torch.bfloat16)
    assert low.router.weight.dtype == torch.bfloat16
    assert low.load.dtype == torch.float32
    assert low.load[0] == 1001
    assert low.expert_bias is None or low.expert_bias.dtype == torch.float32


LOSSES = {
    "by default": ({}, 1),
    "none": ({"balance": "none"}, 0),
    "off": ({"balance_weight": 0}, 0),
    "bias": ({"balance": "bias"}, 0),
    "bias and loss": ({"balance": "bias", "balance_weight": 0.001}, 1),
    "z": ({"balance": "none", "z_weight": 0.1}, 1),
    "loss and z": ({"z_weight": 0.1}, 2),
}


@pytest.mark.parametrize(("settings", "count"), LOSSES.values(), ids=LOSSES)
def test_losses_asked_for(settings, count):
    part, x = moe(**settings).train(), drawn()
    seq = plain(x)
    part(x, seq)
    assert len(seq.aux_losses) == count
    assert all(loss > 0 and loss.dtype == torch.float32 for loss in seq.aux_losses)


def test_z_loss_counts_real_tokens_by_its_weight():
    x, mask = drawn(), torch.arange(40).expand(2, 40) >= 7
    found = {}
    for weight in (0.1, 0.3):
        seq = gw.Sequence.padded(mask)
        moe(balance="none", z_weight=weight).train()(torch.where(mask[..., None], x, 50 * x), seq)
        found[weight] = seq.aux_losses[0].item()
    scores = x[mask] @ moe().router.weight.T
    assert found[0.1] == pytest.approx(0.1 * scores.logsumexp(-1).square().mean().item(), rel=1e-5)
    assert found[0.3] == pytest.approx(3 * found[0.1], rel=1e-5)


REFUSED = {
    "top_k": ({"top_k": 5}, "top_k 5 must be at most n_experts 4; choose fewer experts a token, or more experts"),
    "router": ({"router": "sofmax"}, "router"),
    "z_weight": ({"z_weight": -1}, "z_weight"),
    "balance_weight": (
        {"balance": "none", "balance_weight": 0.1},
        "balance_weight 0.1 has no use with balance none; leave it out, or balance by loss",
    ),
    "balance_rate": (
        {"balance_rate": 0.1},
        "balance_rate 0.1 has no use with balance loss; leave it out, or balance by bias",
    ),
    "scale": ({"scale": 0}, "scale"),
    "d_ff": ({"expert": {"type": NOISY}}, "d_ff 24 has no meaning for experts of type"),
}


@pytest.mark.parametrize(("settings", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(settings, words):
    feed_forward = {"type": "moe", "n_experts": 4, "d_ff": 24, **settings}
    with pytest.raises(gw.ConfigError) as refused:
        model_of({"feed_forward": feed_forward})
    assert words in str(refused.value)


def test_settings_survive_being_written_and_read():
    config = moe(balance="bias", router="sigmoid").config
    again = type(config).from_dict(config.to_dict())
    assert again == config
    assert not list(again.check(context()))


@pytest.mark.parametrize("expert", [{"type": NOISY}, NESTED, "mlp"], ids=["stranger", "nested", "mlp"])
def test_an_expert_knows_where_its_tokens_stand(expert):
    """Packed and padded in between: each token alone, by hand, at its own place, is what all of them are together."""
    part, x = moe(expert=expert, d_ff=None).train(), drawn(1, 40)
    for module in part.modules():
        module.training = isinstance(module, type(part))
    segments = torch.tensor([[1] * 9 + [0] * 4 + [3] * 20 + [0] * 2 + [3] * 5])
    whole = gw.Sequence.packed(segments)
    together = part(x, whole)[0]
    for at in (0, 8, 13, 32, 35, 39):
        one = x[:, at : at + 1]
        seq = gw.Sequence(whole.positions[:, at : at + 1], whole.segments[:, at : at + 1], gapless=False)
        weights, chosen, _ = route(one[0] @ part.router.weight.T, 2)
        found = [part.experts[index](one, seq)[0, 0] for index in chosen[0].tolist()]
        expected = sum(weight * each for weight, each in zip(weights[0], found, strict=True))
        torch.testing.assert_close(together[at], expected, rtol=1e-4, atol=1e-5)


def test_experts_that_are_mixtures_count_and_balance_their_own():
    part, x = moe(expert=NESTED, n_experts=3, d_ff=None).train(), drawn()
    seq = plain(x)
    part(x, seq)
    assert len(seq.aux_losses) == 4
    for expert, visited in zip(part.experts, part.load, strict=True):
        assert expert.load.sum() == 2 * visited


@pytest.mark.parametrize("settings", [{"expert": NESTED, "d_ff": None, "n_shared": 1}, {"n_shared": 2, "top_k": 3}])
def test_accounting(settings):
    part, config = moe(**settings), moe(**settings).config
    x = drawn(1, 1).requires_grad_()
    assert config.num_params(context()) == sum(p.numel() for p in part.parameters())
    part(x, plain(x)).sum().backward()
    reached = sum(p.numel() for p in part.parameters() if p.grad is not None)
    assert config.active_params(context()) == reached
    matrices = sum(p.numel() for p in part.parameters() if p.grad is not None and p.ndim > 1)
    assert config.flops_per_token(context(), 1) == 2 * matrices


@pytest.mark.parametrize("expert", ["glu", {"type": "mlp", "bias": True}, NESTED], ids=["glu", "mlp", "nested"])
def test_experts_are_cut_as_they_cut_themselves(expert):
    feed_forward = {"type": "moe", "n_experts": 3, "expert": expert, "n_shared": 1, "scale": 2}
    model = model_of({"feed_forward": feed_forward})
    assert slices_sum_to_the_whole(model) is None
    plan = model.layers[0].feed_forward.config.tp_plan(model.config.context(0))
    assert all(key.startswith(("experts.*.", "shared.*.")) for key in plan)
    assert set(plan.values()) == {"colwise", "rowwise"}


def test_without_shared_experts_no_plan_names_them():
    assert set(moe().config.tp_plan(context())) == {f"experts.*.{name}_proj" for name in ("gate", "up", "down")}


KINDS = {
    "glu": {"d_ff": 8, "router": "sigmoid", "balance": "bias", "balance_weight": 0.1, "z_weight": 0.01},
    "stranger": {"expert": {"type": NOISY}},
    "nested": {"expert": NESTED},
}


def trained(settings, backend):
    """Return the loss, the gradients and the counts of two passes in training mode."""
    model = model_of({"feed_forward": {"type": "moe", "n_experts": 3, **settings}}, n_layers=1).train()
    ids = tokens(2, 50)

    def objective(ids):
        seq = model.describe(ids)
        loss = model.summed_loss(model.hidden(ids, seq), ids) / ids.numel()
        return loss + sum(seq.aux_losses, torch.zeros(()))

    torch.compiler.reset()
    run = objective if backend is None else torch.compile(objective, fullgraph=True, backend=backend)
    torch.manual_seed(5)
    for _ in range(2):
        loss = run(ids)
        loss.backward()
    loads = {name: buffer for name, buffer in model.named_buffers() if name.endswith("load")}
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}, loads


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_training_in_one_graph_is_training(settings, backend):
    """Losses of experts inside, random numbers, and each visit counted once though the backward runs experts again."""
    expected, found = trained(settings, None), trained(settings, backend)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)
    assert found[2].keys() == expected[2].keys()
    assert all(torch.equal(found[2][name], expected[2][name]) for name in expected[2])


def test_a_graph_runs_experts_on_their_own_tokens_alone():
    model = model_of({"feed_forward": {"type": "moe", "n_experts": 6, "d_ff": 8}}, n_layers=1)
    seen = []
    for expert in model.layers[0].feed_forward.experts:
        inner = expert.forward
        expert.forward = lambda x, seq, inner=inner: (seen.append(x.shape[1]), inner(x, seq))[1]
    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(model, fullgraph=True, backend="eager")(tokens(2, 50))
    assert sum(seen) == 2 * 50 * 2


@pytest.mark.parametrize("settings", [{"top_k": 1, "n_shared": 1}, {"expert": {"type": NOISY}}], ids=str)
def test_in_one_graph_experts_of_any_kind_are_the_same(settings):
    compiled_equals_eager(model_of({"feed_forward": {"type": "moe", "n_experts": 3, **settings}}), backend="aot_eager")


def test_a_copy_in_a_graph_is_not_the_original():
    part = moe()
    other = copy.deepcopy(part)
    with torch.no_grad():
        for param in other.experts.parameters():
            param.mul_(2)
    x = drawn()
    torch.compiler.reset()
    for each in (part, other):
        compiled = torch.compile(each, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x, plain(x)), each(x, plain(x)))
    assert part.experts.key != other.experts.key


def test_a_compiled_model_follows_its_weights():
    part, x = moe(), drawn()
    torch.compiler.reset()
    compiled = torch.compile(part, fullgraph=True, backend="aot_eager")
    compiled(x, plain(x))
    with torch.no_grad():
        for param in part.experts.parameters():
            param.add_(0.1)
    torch.testing.assert_close(compiled(x, plain(x)), part(x, plain(x)))
