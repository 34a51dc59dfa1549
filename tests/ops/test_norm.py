import pytest
import torch

from gptwright.ops.norm import rms_norm, rms_norm_reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
def test_agrees_with_torch_forward_and_backward(dtype, weighted):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 48).to(dtype).requires_grad_()
    weight = torch.randn(48).to(dtype).requires_grad_() if weighted else None
    grad = torch.randn(3, 5, 48).to(dtype)
    inputs = [x] if weight is None else [x, weight]
    found, expected = (
        [out, *torch.autograd.grad(out, inputs, grad)]
        for out in (rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6))
    )
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    for a, b in zip(found, expected, strict=True):
        assert (a - b).double().norm() <= tolerance * b.double().norm()


def test_a_zero_vector_stays_zero_with_a_finite_gradient():
    x = torch.zeros(2, 8, requires_grad=True)
    rms_norm(x, None, 1e-6).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
