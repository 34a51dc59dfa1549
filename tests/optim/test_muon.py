import copy

import pytest
import torch

from gptwright.ops.precision import choose
from gptwright.optim.adam import adamw_step
from gptwright.optim.muon import MuonAdamW, muon_reference, muon_step
from gptwright.optim.optimizer.muon import Muon

GROUP = {
    "lr": 0.05,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.2,
    "cautious": False,
    "ns_steps": 5,
    "ns_dtype": "float32",
}


def build(model, **settings):
    return Muon(Muon.Config.from_dict(settings)).build(model)


def parameters(*shapes):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("cautious", [True, False])
def test_batched_and_plain_muon_agree_over_several_steps(nesterov, cautious):
    group = {**GROUP, "nesterov": nesterov, "cautious": cautious}
    shapes = [(6, 4), (4, 6), (6, 4), (3, 6, 4), (5, 5), (2, 4, 6)]
    fast, state = parameters(*shapes), {}
    state = {p: {} for p in fast}
    plain = [p.clone() for p in fast]
    momenta = [torch.zeros_like(p) for p in plain]
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for p in fast:
            p.grad = torch.randn(p.shape, generator=generator)
        muon_step(fast, state, group)
        for weight, momentum, source in zip(plain, momenta, fast, strict=True):
            into, out = weight.shape[-1], weight.shape[-2]
            rows = zip(*(t.view(-1, out, into) for t in (weight, source.grad, momentum)), strict=True)
            for one in rows:
                muon_reference(*one, group)
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_cautious_decay_touches_only_weights_that_the_update_shrinks():
    weight = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    gradient = torch.tensor([[1.0, 0.0], [0.0, -1.0]])  # update keeps these signs; lr makes its own size tiny
    group = {**GROUP, "lr": 1e-6, "weight_decay": 1e5, "cautious": True}
    weight.grad = gradient
    muon_step([weight], {weight: {}}, group)
    torch.testing.assert_close(weight, torch.tensor([[0.9, -0.9], [0.9, 1.0]]), rtol=0, atol=1e-4)


def test_the_update_has_the_size_lr_says_whatever_the_gradients_scale():
    for factor in (1e-4, 1.0, 1e4):
        (weight,) = parameters((16, 4))
        before = weight.clone()
        weight.grad = factor * torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
        muon_step([weight], {weight: {}}, {**GROUP, "weight_decay": 0.0})
        gains = torch.linalg.svdvals(before - weight) / (0.05 * (16 / 4) ** 0.5)
        assert gains.min() > 0.6
        assert gains.max() < 1.25


def test_adam_part_equals_torchs_adamw(toy, train):
    ours, theirs = toy(), toy()
    group = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "fused": True}
    optimizer = MuonAdamW([{**group, "algorithm": "adamw", "params": list(ours.parameters())}])
    reference = torch.optim.AdamW(theirs.parameters(), **group)
    assert train(ours, optimizer, 5) == train(theirs, reference, 5)


def test_adam_without_the_fused_kernel_agrees():
    (fast,), (slow,) = parameters((6, 4)), parameters((6, 4))
    group = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    for p, fused in ((fast, True), (slow, False)):
        state = {p: {}}
        for step in range(3):
            p.grad = torch.full_like(p, step - 1.5)
            adamw_step([p], state, {**group, "fused": fused})
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-7)


def test_each_group_has_its_own_learning_rate(toy):
    groups = build(toy(), lr=0.05, adam_lr=0.001, embedding_lr=0.002, head_lr=0.003).param_groups
    assert {g["name"]: g["initial_lr"] for g in groups} == {
        "muon": 0.05,
        "embedding": 0.002,
        "head": 0.003,
        "other": 0.001,
        "vector": 0.001,
    }


def test_unset_rates_are_adam_lr_and_a_tied_head_has_no_group(toy):
    groups = build(toy(tied=True), adam_lr=0.004).param_groups
    assert {g["name"]: g["initial_lr"] for g in groups if g["name"] != "muon"} == {
        "embedding": 0.004,
        "other": 0.004,
        "vector": 0.004,
    }


@pytest.mark.parametrize(("name", "expected"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float32")])
def test_auto_ns_dtype_follows_the_precision_of_the_run(toy, name, expected):
    optimizer = Muon(Muon.Config()).build(toy(), precision=choose(name))
    assert optimizer.param_groups[0]["ns_dtype"] == expected


def test_a_resumed_run_keeps_the_format_it_began_with(toy):
    saved = build(toy(), ns_dtype="bfloat16").state_dict()
    other = build(toy(), ns_dtype="float32")
    other.load_state_dict(saved)
    assert other.param_groups[0]["ns_dtype"] == "bfloat16"


def test_bfloat16_iterations_learn_like_float32_ones(toy, train):
    final = {}
    for dtype in ("float32", "bfloat16"):
        model = toy()
        final[dtype] = train(model, build(model, ns_dtype=dtype), 30)[-1]
    assert abs(final["float32"] - final["bfloat16"]) < 0.1


def test_a_closure_is_run_with_gradients_and_its_loss_returned(toy):
    model = toy()
    optimizer = build(model)
    before = copy.deepcopy(model.state_dict())

    def closure():
        loss = model(torch.zeros(1, 4, dtype=torch.long)).square().mean()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) > 0
    assert not torch.equal(before["layers.0.q_proj.weight"], model.layers[0].q_proj.weight)
