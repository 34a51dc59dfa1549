import math

import pytest
import torch
from torch import nn

from gptwright.ops.moe import dispatch, dispatch_reference, load_balance, rebalanced, route, visits, z_loss


def experts_of(count: int, width: int) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Sequential(nn.Linear(width, 7), nn.GELU(), nn.Linear(7, width)) for _ in range(count))


def run_each(experts):
    """Return what `dispatch` calls: every expert on its own slice."""

    def run(x, tokens, counts):
        parts = x.split(counts.tolist())
        return torch.cat([expert(part) for expert, part in zip(experts, parts, strict=True) if len(part)])

    return run


@pytest.mark.parametrize("n_tokens", [1, 2, 63, 65, 200])
@pytest.mark.parametrize(("n_experts", "top_k"), [(1, 1), (4, 1), (4, 2), (5, 5)])
def test_dispatch_equals_running_every_expert_on_every_token(agree, draw, n_tokens, n_experts, top_k):
    run = run_each(experts_of(n_experts, 6))

    def mixed(how):
        def mix(x, scores):
            weights, chosen, _ = route(scores, top_k, scale=1.7)
            return how(x, weights, chosen, run, n_experts)

        return mix

    agree(mixed(dispatch), mixed(dispatch_reference), draw((n_tokens, 6), (n_tokens, n_experts)), tolerance=1e-4)


@pytest.mark.parametrize("how", [dispatch, dispatch_reference])
def test_experts_are_told_which_tokens_they_get(draw, how):
    x, scores = draw((40, 6), (40, 4))
    weights, chosen, _ = route(scores, 2)

    def run(sent, tokens, counts):
        assert torch.equal(sent, x[tokens])
        assert int(counts.sum()) == len(sent)
        if how is dispatch:
            assert torch.equal(counts, chosen.flatten().bincount(minlength=4))
        return 3 * sent + tokens[:, None]

    expected = 3 * x + torch.arange(40)[:, None]
    torch.testing.assert_close(how(x, weights, chosen, run, 4), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dispatch_in_other_precisions(draw, dtype):
    x, scores = draw((50, 6), (50, 4))
    weights, chosen, _ = route(scores, 2)
    sides = []
    for how, kind in ((dispatch, dtype), (dispatch_reference, torch.float64)):
        leaves = x.to(kind).requires_grad_(), weights.clone().requires_grad_()
        out = how(*leaves, chosen, run_each([torch.sin, torch.cos, torch.tanh, torch.square]), 4)
        assert out.dtype == kind
        out.square().sum().backward()
        sides.append([out, leaves[0].grad, leaves[1].grad])
    for found, expected in zip(*sides, strict=True):
        torch.testing.assert_close(
            found.double(), expected.double(), rtol=0.05, atol=0.1 if dtype.itemsize < 4 else 1e-6
        )


def test_an_expert_that_nobody_chooses_is_not_run(draw):
    def never(x):
        raise AssertionError(f"{len(x)} tokens")

    x = draw((9, 6))[0]
    weights, chosen, _ = route(torch.tensor([[5.0, 1.0, -5.0]]).expand(9, 3), 2)
    out = dispatch(x, weights, chosen, run_each([lambda t: t, lambda t: 3 * t, never]), 3)
    torch.testing.assert_close(out, x * (weights[:, :1] + 3 * weights[:, 1:]))


def test_weights_of_several_experts_sum_to_one_and_of_one_are_its_probability(draw):
    scores = draw((20, 6))[0]
    weights, chosen, probs = route(scores, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(20))
    assert torch.equal(chosen, scores.topk(3).indices)
    weights, chosen, probs = route(scores, 1)
    assert torch.equal(weights[:, 0], probs.max(-1).values)


def test_sigmoid_judges_each_expert_by_itself(draw):
    scores = draw((20, 6))[0]
    weights, chosen, affinities = route(scores, 3, router="sigmoid", normalise=False)
    torch.testing.assert_close(affinities, 1 / (1 + (-scores).exp()))
    torch.testing.assert_close(weights, affinities.gather(1, chosen))
    normalised, _, _ = route(scores, 3, router="sigmoid", scale=2.5)
    torch.testing.assert_close(normalised, 2.5 * weights / weights.sum(-1, keepdim=True))


def test_sigmoids_that_are_all_zero_have_no_nan():
    scores = torch.full((3, 4), -1000.0, requires_grad=True)
    weights, _, _ = route(scores, 2, router="sigmoid")
    weights.sum().backward()
    assert torch.equal(weights, torch.zeros(3, 2))
    assert torch.equal(scores.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_a_bias_chooses_and_does_not_weigh(draw, router):
    scores = draw((20, 6))[0].requires_grad_()
    bias = torch.tensor([0.0, 0.0, 0.0, 2.0, 0.0, -2.0])
    weights, chosen, affinities = route(scores, 2, router=router, bias=bias, normalise=False)
    assert (chosen == 3).any(1).all()
    assert not (chosen == 5).any()
    assert torch.equal(weights, affinities.gather(1, chosen))
    assert torch.equal(affinities, route(scores, 2, router=router).affinities)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_router_learns_from_the_result(draw, top_k):
    x, scores = draw((20, 6), (20, 4))
    scores.requires_grad_()
    weights, chosen, _ = route(scores, top_k)
    dispatch(x, weights, chosen, run_each(experts_of(4, 6)), 4).square().sum().backward()
    assert scores.grad.abs().max() > 1e-3


def test_balance_is_one_when_balanced_and_the_number_of_experts_when_not():
    even = torch.full((8, 4), 0.25)
    real = torch.ones(8, dtype=torch.bool)
    assert load_balance(even, torch.arange(8)[:, None] % 4, real) == pytest.approx(1)
    one_hot = torch.eye(4)[[2] * 8]
    assert load_balance(one_hot, torch.full((8, 1), 2), real) == pytest.approx(4)


def test_padding_does_not_count_for_balance(draw):
    scores = draw((20, 4))[0]
    _, chosen, probs = route(scores, 2)
    real = torch.arange(20) < 13
    assert load_balance(probs, chosen, real) == pytest.approx(float(load_balance(probs[:13], chosen[:13], real[:13])))
    nothing = load_balance(probs, chosen, torch.zeros(20, dtype=torch.bool))
    assert math.isfinite(nothing)


def test_balance_of_sigmoids_is_that_of_their_shares(draw):
    scores = draw((20, 4))[0]
    _, chosen, affinities = route(scores, 2, router="sigmoid")
    real = torch.ones(20, dtype=torch.bool)
    shares = affinities / affinities.sum(-1, keepdim=True)
    assert load_balance(affinities, chosen, real) == pytest.approx(float(load_balance(shares, chosen, real)))
    assert load_balance(7 * affinities, chosen, real) == pytest.approx(float(load_balance(shares, chosen, real)))


def test_only_real_tokens_visit():
    chosen = torch.tensor([[0, 2], [2, 1], [2, 0]])
    assert visits(chosen, torch.tensor([True, True, False]), 4).tolist() == [1, 1, 2, 0]


def test_z_loss_is_the_mean_square_of_the_log_of_all(draw):
    scores = draw((20, 4))[0].requires_grad_()
    real = torch.arange(20) < 13
    expected = torch.tensor([math.log(sum(math.exp(s) for s in row)) ** 2 for row in scores[:13].tolist()]).mean()
    found = z_loss(scores, real)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert (scores.grad[:13].norm(dim=1) > 0).all()
    assert torch.equal(scores.grad[13:], torch.zeros(7, 4))
    assert z_loss(scores, torch.zeros(20, dtype=torch.bool)) == 0


def test_busy_experts_become_less_likely_and_idle_ones_more():
    load = torch.tensor([9.0, 3.0, 6.0, 6.0])  # relative errors -0.5, 0.5, 0, 0
    moved = rebalanced(torch.tensor([0.5, -0.5, 0.25, -0.25]), load, 0.1)
    torch.testing.assert_close(moved, torch.tensor([0.45, -0.45, 0.25, -0.25]))


def test_a_bias_moves_by_the_rate_at_most_and_biases_do_not_drift():
    moved = rebalanced(torch.zeros(4), torch.tensor([12.0, 0.0, 0.0, 0.0]), 0.1)
    torch.testing.assert_close(moved, torch.tensor([-0.15, 0.05, 0.05, 0.05]))  # -0.1, 0.1, 0.1, 0.1 without their mean
