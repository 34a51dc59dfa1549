import pytest
import torch

from gptwright.optim.lion import lion_reference, lion_step


def test_two_steps_by_hand():
    weight, state = torch.tensor([1.0, -2.0, 0.5]), {}
    state = {weight: {}}
    group = {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.2}
    weight.grad = torch.tensor([4.0, -4.0, 0.0])
    lion_step([weight], state, group)
    torch.testing.assert_close(weight, torch.tensor([0.98 - 0.1, -1.96 + 0.1, 0.49]))
    torch.testing.assert_close(state[weight]["momentum"], torch.tensor([1.0, -1.0, 0.0]))
    weight.grad = torch.tensor([-0.5, -4.0, 1.0])  # the first is too small to turn the mean's sign: 1 + (-1.5) / 2 > 0
    lion_step([weight], state, group)
    torch.testing.assert_close(weight, torch.tensor([0.88 * 0.98 - 0.1, -1.86 * 0.98 + 0.1, 0.49 * 0.98 - 0.1]))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lists_and_plain_formula_agree_over_several_steps(decay):
    group = {"lr": 0.05, "betas": (0.9, 0.99), "weight_decay": decay}
    generator = torch.Generator().manual_seed(3)
    fast = [torch.randn(shape, generator=generator) for shape in [(6, 4), (5,), (2, 3, 4), ()]]
    state = {p: {} for p in fast}
    plain, momenta = [p.clone() for p in fast], [torch.zeros_like(p) for p in fast]
    for _ in range(4):
        for p, weight, momentum in zip(fast, plain, momenta, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            lion_reference(weight, p.grad, momentum, group)
        lion_step(fast, state, group)
    for p, weight, momentum in zip(fast, plain, momenta, strict=True):
        torch.testing.assert_close(p, weight, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(state[p]["momentum"], momentum, rtol=1e-5, atol=1e-7)
