import torch

from gptwright.ops.rotary import rotary_angles, rotate


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


def test_angles_are_exact_far_out_whatever_the_precision_of_the_model():
    """At position 100,000 bf16 angles would be noise: they are computed in fp32."""
    cos, _ = rotary_angles(torch.tensor([[100_000]]), 8, theta=10000.0)
    exact = torch.cos(torch.tensor(100_000.0, dtype=torch.float64) * 10000.0 ** -torch.arange(0, 1, 0.25).double())
    assert cos.dtype == torch.float32
    torch.testing.assert_close(cos[0, 0, 0, :4].double(), exact, rtol=0, atol=1e-2)
