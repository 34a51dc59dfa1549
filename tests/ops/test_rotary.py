import math

import pytest
import torch

from gptwright.ops.reference import reference_paths
from gptwright.ops.rotary import (
    kept_by_pair,
    kept_by_turns,
    rotary_angles,
    rotary_frequencies,
    rotate,
    rotate_reference,
    slowed,
    stretched_theta,
)

from .conftest import LENGTHS


def test_pairs_are_turned_by_their_angle():
    x = torch.randn(1, 1, 9, 6, generator=torch.Generator().manual_seed(0))
    cos, sin = rotary_angles(torch.arange(9)[None], 6, theta=100.0)
    turned = rotate(x, cos, sin)
    for position in range(9):
        for pair in range(3):
            angle = torch.tensor(position * 100.0 ** (-2 * pair / 6))
            number = torch.complex(x[0, 0, position, pair], x[0, 0, position, pair + 3])
            expected = number * torch.polar(torch.tensor(1.0), angle)
            found = torch.complex(turned[0, 0, position, pair], turned[0, 0, position, pair + 3])
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_products_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(1))
    products = []
    for shift in (0, 5, 1000):
        cos, sin = rotary_angles(torch.tensor([[3 + shift, 10 + shift]]), 8, theta=10000.0)
        turned_q, turned_k = rotate(q, cos[:, :, :1], sin[:, :, :1]), rotate(k, cos[:, :, 1:], sin[:, :, 1:])
        products.append((turned_q * turned_k).sum())
    torch.testing.assert_close(torch.stack(products[1:]), products[0].expand(2), rtol=1e-3, atol=1e-4)


def test_position_zero_and_lengths_are_unchanged():
    x = torch.randn(2, 3, 50, 4, generator=torch.Generator().manual_seed(2))
    cos, sin = rotary_angles(torch.arange(50)[None], 4, theta=500.0)
    turned = rotate(x, cos, sin)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_fast_path_is_the_reference(agree, draw, length, width):
    angles = rotary_angles(torch.arange(length)[None], width, theta=100.0)
    agree(lambda x: rotate(x, *angles), lambda x: rotate_reference(x, *angles), draw((2, 3, length, 8)))


def test_the_features_after_the_turned_ones_stay_as_they_are(draw):
    (x,) = draw((2, 3, 20, 10))
    angles = rotary_angles(torch.arange(20)[None], 4, theta=100.0)
    turned = rotate(x, *angles)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[..., :4], rotate(x[..., :4].contiguous(), *angles))


def test_the_reference_takes_over(draw):
    (x,) = draw((1, 2, 5, 6))
    angles = rotary_angles(torch.arange(5)[None], 4, theta=100.0)
    with reference_paths():
        assert "Rotate" not in rotate(x.requires_grad_(), *angles).grad_fn.name()
    assert "Rotate" in rotate(x, *angles).grad_fn.name()


def test_angles_are_exact_far_out_whatever_the_precision_of_the_model():
    """At position 100,000 bf16 angles would be noise: they are computed in fp32."""
    cos, _ = rotary_angles(torch.tensor([[100_000]]), 8, theta=10000.0)
    exact = torch.cos(torch.tensor(100_000.0, dtype=torch.float64) * 10000.0 ** -torch.arange(0, 1, 0.25).double())
    assert cos.dtype == torch.float32
    torch.testing.assert_close(cos[0, 0, 0, :4].double(), exact, rtol=0, atol=1e-2)


def test_the_slowest_of_the_stretched_pairs_is_as_slow_as_by_the_factor():
    plain, stretched = rotary_frequencies(16, 100.0), rotary_frequencies(16, stretched_theta(16, 100.0, 4.0))
    ratio = plain / stretched
    assert ratio[0] == 1
    assert ratio[-1].item() == pytest.approx(4, rel=1e-6)
    assert (ratio.diff() > 0).all()


def test_what_is_kept_is_not_slowed(draw):
    frequencies, kept = rotary_frequencies(8, 100.0), torch.tensor([1.0, 0.5, 0.25, 0.0])
    expected = frequencies * torch.tensor([1, 0.5 + 0.5 / 4, 0.25 + 0.75 / 4, 1 / 4])
    torch.testing.assert_close(slowed(frequencies, 4.0, kept), expected)
    assert torch.equal(slowed(frequencies, 4.0), frequencies / 4)


def test_turns_decide_what_is_kept():
    turns = torch.tensor([100, 4.0, 2.5, 1.0, 0.1])
    kept = kept_by_turns(turns * 2 * math.pi / 50, 50, 4.0, 1.0)
    torch.testing.assert_close(kept, torch.tensor([1, 1, 0.5, 0, 0]))


def test_what_is_kept_falls_from_pair_to_pair():
    pairs = torch.arange(32)
    turns = 1000 / (2 * math.pi) * 10000.0 ** (-pairs / 32)
    kept = kept_by_pair(64, 10000.0, 1000, 16.0, 1.0, whole=False)
    assert torch.equal(kept == 1, turns > 16)
    assert torch.equal(kept == 0, turns < 1)
    between = kept[(kept > 0) & (kept < 1)]
    torch.testing.assert_close(between.diff(), between.diff()[:1].expand(len(between) - 1))
    whole = kept_by_pair(64, 10000.0, 1000, 16.0, 1.0)
    assert whole[int((turns > 16).sum()) - 1] == 1
    assert whole[len(pairs) - int((turns < 1).sum())] == 0
    assert (whole - kept).abs().max() < 0.1


@pytest.mark.parametrize("length", [1, 3, 6])
def test_a_context_too_short_for_any_turn_keeps_at_most_the_first_pair(length):
    assert kept_by_pair(16, 100.0, length, 32.0, 1.0)[1:].eq(0).all()
