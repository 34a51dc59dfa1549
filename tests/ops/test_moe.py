import math

import pytest
import torch
from torch import nn

from gptwright.ops.moe import dispatch, dispatch_reference, load_balance, route


def experts_of(count: int, width: int) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Sequential(nn.Linear(width, 7), nn.GELU(), nn.Linear(7, width)) for _ in range(count))


@pytest.mark.parametrize("n_tokens", [1, 2, 63, 65, 200])
@pytest.mark.parametrize(("n_experts", "top_k"), [(1, 1), (4, 1), (4, 2), (5, 5)])
def test_dispatch_equals_running_every_expert_on_every_token(agree, draw, n_tokens, n_experts, top_k):
    experts = list(experts_of(n_experts, 6))

    def mixed(how):
        def run(x, scores):
            weights, chosen, _ = route(scores, top_k)
            return how(x, weights, chosen, experts)

        return run

    agree(mixed(dispatch), mixed(dispatch_reference), draw((n_tokens, 6), (n_tokens, n_experts)), tolerance=1e-4)


def test_an_expert_that_nobody_chooses_is_not_run(draw):
    def never(x):
        raise AssertionError(f"{len(x)} tokens")

    x = draw((9, 6))[0]
    weights, chosen, _ = route(torch.tensor([[5.0, 1.0, -5.0]]).expand(9, 3), 2)
    out = dispatch(x, weights, chosen, [lambda t: t, lambda t: 3 * t, never])
    torch.testing.assert_close(out, x * (weights[:, :1] + 3 * weights[:, 1:]))


def test_weights_of_several_experts_sum_to_one_and_of_one_are_its_probability(draw):
    scores = draw((20, 6))[0]
    weights, chosen, probs = route(scores, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(20))
    assert torch.equal(chosen, scores.topk(3).indices)
    weights, chosen, probs = route(scores, 1)
    assert torch.equal(weights[:, 0], probs.max(-1).values)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_router_learns_from_the_result(draw, top_k):
    x, scores = draw((20, 6), (20, 4))
    scores.requires_grad_()
    weights, chosen, _ = route(scores, top_k)
    dispatch(x, weights, chosen, list(experts_of(4, 6))).square().sum().backward()
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
