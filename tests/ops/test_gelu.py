import pytest
import torch

from gptwright.ops.gelu import gelu_tanh, gelu_tanh_reference


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
def test_agrees_with_torch_in_double_precision_forward_and_backward(dtype, tolerance):
    torch.manual_seed(0)
    x = (3 * torch.randn(20_000)).to(dtype).requires_grad_()
    grad = torch.randn(20_000).to(dtype)
    exact = x.detach().double().requires_grad_()
    out, expected = gelu_tanh(x), gelu_tanh_reference(exact)
    (found_grad,) = torch.autograd.grad(out, x, grad)
    (expected_grad,) = torch.autograd.grad(expected, exact, grad.double())
    for a, b in ((out, expected), (found_grad, expected_grad)):
        assert (a.double() - b).norm() <= tolerance * b.norm()


def test_large_values_are_passed_or_stopped():
    x = torch.tensor([-100.0, -10.0, 0.0, 10.0, 100.0], dtype=torch.bfloat16, requires_grad=True)
    out = gelu_tanh(x)
    out.sum().backward()
    assert out.tolist() == pytest.approx([0, 0, 0, 10, 100], abs=1e-9)
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-9)
