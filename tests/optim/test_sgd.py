import pytest
import torch

from gptwright.optim.optimizer.sgd import SGD
from gptwright.optim.sgd import sgd_reference, sgd_step


@pytest.mark.parametrize("classic", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("fused", [True, False])
def test_torchs_kernel_and_plain_formula_agree_over_several_steps(classic, nesterov, momentum, fused):
    group = {"lr": 0.1, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.2, "classic": classic}
    generator = torch.Generator().manual_seed(3)
    fast = [torch.randn(shape, generator=generator) for shape in [(6, 4), (5,), (2, 3, 4)]]
    state = {p: {} for p in fast}
    plain, momenta = [p.clone() for p in fast], [torch.zeros_like(p) for p in fast]
    for _ in range(4):
        for p, weight, moving in zip(fast, plain, momenta, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            sgd_reference(weight, p.grad.clone(), moving, group)
        sgd_step(fast, state, {**group, "fused": fused})
    for p, weight in zip(fast, plain, strict=True):
        torch.testing.assert_close(p, weight, rtol=1e-5, atol=1e-6)
        assert bool(state[p]) == bool(momentum)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
def test_classic_decay_is_torchs_sgd(toy, train, momentum, nesterov):
    ours, theirs = toy(), toy()
    settings = {"lr": 0.05, "momentum": momentum, "nesterov": nesterov}
    config = SGD.Config.from_dict({**settings, "weight_decay": 0.0, "decay": "classic"})
    reference = torch.optim.SGD(theirs.parameters(), fused=True, **settings)
    assert train(ours, SGD(config).build(ours), 5) == train(theirs, reference, 5)

    decayed = toy(), toy()
    config = SGD.Config.from_dict({**settings, "weight_decay": 0.1, "decay": "classic"})
    optimizer = SGD(config).build(decayed[0])
    matrices = {id(p) for p in optimizer.param_groups[0]["params"]}
    pairs = list(zip(decayed[0].parameters(), decayed[1].parameters(), strict=True))
    groups = [
        {"params": [b for a, b in pairs if id(a) in matrices], "weight_decay": 0.1},
        {"params": [b for a, b in pairs if id(a) not in matrices]},
    ]
    reference = torch.optim.SGD(groups, fused=True, **settings)
    assert train(decayed[0], optimizer, 5) == train(decayed[1], reference, 5)


def test_decoupled_decay_shrinks_by_lr_times_decay_whatever_the_momentum():
    weight = torch.tensor([2.0])
    group = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.5, "classic": False, "fused": False}
    state = {weight: {"momentum": torch.tensor([1.0])}}
    weight.grad = torch.zeros(1)
    sgd_step([weight], state, {**group, "lr": 0.1})
    torch.testing.assert_close(weight, torch.tensor([2.0 * 0.95 - 0.1 * 0.9 * 0.9]))
