import pytest
import torch

from gptwright.ops.attention import attention, attention_reference
from gptwright.ops.blocked_attention import LONGEST, blocked_attention, suits_blocks


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_the_reference_forward_and_backward(length, dtype):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 16).to(dtype).requires_grad_() for _ in range(3))
    grad = torch.randn(2, 3, length, 16).to(dtype)
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    out, expected = blocked_attention(q, k, v), attention_reference(*wide, None, causal=True)
    found = [out, *torch.autograd.grad(out, (q, k, v), grad)]
    wanted = [expected, *torch.autograd.grad(expected, wide, grad.float())]
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for a, b in zip(found, wanted, strict=True):
        assert (a.float() - b).norm() <= tolerance * (b.norm() + 1e-3)


def test_grouped_heads_take_the_same_path():
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 200, 8), torch.randn(1, 2, 200, 8), torch.randn(1, 2, 200, 8)
    assert suits_blocks(q)
    torch.testing.assert_close(
        attention(q, k, v, None, causal=True), attention_reference(q, k, v, None, causal=True), rtol=1e-5, atol=1e-5
    )


def test_long_sequences_are_left_to_torch():
    assert not suits_blocks(torch.zeros(1, 1, LONGEST + 1, 2))
