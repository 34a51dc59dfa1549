import pytest
import torch

from gptwright.ops.newton_schulz import orthogonalize, orthogonalize_reference


def matrices(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(5, 8, 8), (4, 16, 6), (4, 6, 16), (1, 3, 1)])
def test_batched_equals_one_by_one(shape):
    stack = matrices(*shape)
    single = torch.stack([orthogonalize_reference(matrix) for matrix in stack])
    torch.testing.assert_close(orthogonalize(stack), single, rtol=1e-5, atol=2e-6)


def test_bfloat16_is_the_same_up_to_its_rounding():
    stack = matrices(4, 24, 12)
    rounded = orthogonalize(stack, dtype=torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - orthogonalize(stack)).norm() < 0.05 * orthogonalize(stack).norm()


def test_singular_values_come_near_one_and_directions_stay():
    stack = matrices(3, 32, 12)
    found = orthogonalize(stack)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.25
    left, _, right = torch.linalg.svd(stack, full_matrices=False)
    exact = left @ right
    assert torch.nn.functional.cosine_similarity(found.flatten(1), exact.flatten(1)).min() > 0.97


def test_zero_stays_zero_and_the_scale_does_not_matter():
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))
    stack = matrices(2, 8, 6)
    torch.testing.assert_close(orthogonalize(1000 * stack), orthogonalize(stack), rtol=1e-4, atol=1e-5)
