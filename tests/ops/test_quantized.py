"""Packed weights and the products with them. Shapes: R rows, N outputs, K inputs."""

import pytest
import torch
import torch.nn.functional as F

import gptwright as gw
from gptwright.ops import quantized
from gptwright.ops.packed import GROUP, Packed, nibbles, pack, packable, unpack
from gptwright.ops.quantized import KERNELS, MANY_ROWS, UNPACKED, Kernel, chosen, embedding, kernel_for, linear


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


@pytest.fixture
def afresh():
    """Choose kernels anew, and again after the test."""
    chosen.cache_clear()
    quantized._warn.cache_clear()
    yield
    chosen.cache_clear()
    quantized._warn.cache_clear()


def test_eight_bits_are_off_by_half_a_step_at_most():
    weight = matrix(48, 33)
    packed = pack(weight, 8)
    assert (packed.q.dtype, packed.scale.dtype, packed.offset) == (torch.int8, torch.float32, None)
    assert torch.equal(packed.scale, weight.abs().amax(1) / 127)
    assert bool(((unpack(packed) - weight).abs() <= packed.scale[:, None] * 0.5001).all())


def test_four_bits_lie_in_groups_as_documented():
    weight = matrix(3, 64)
    packed = pack(weight, 4)
    assert (packed.q.shape, packed.q.dtype) == ((3, 32), torch.uint8)
    assert (packed.scale.shape, packed.scale.dtype) == ((3, 2), torch.bfloat16)
    byte, scale, offset = int(packed.q[1, 16 + 5]), packed.scale[1, 1].float(), packed.offset[1, 1].float()
    whole = unpack(packed)
    assert whole[1, 32 + 5] == scale * (byte & 15) + offset
    assert whole[1, 32 + 5 + 16] == scale * (byte >> 4) + offset
    assert packed.nbytes == 3 * 32 + 2 * 3 * 2 * 2


def test_the_range_of_a_group_is_chosen_and_not_just_taken():
    weight = matrix(64, 256)
    low, high = weight.unflatten(1, (-1, GROUP)).aminmax(dim=-1, keepdim=True)
    scale = (high - low) / 15
    plain = (((weight.unflatten(1, (-1, GROUP)) - low) / scale).round() * scale + low).flatten(1)
    found = error(unpack(pack(weight, 4)), weight)
    assert found < 0.935 * error(plain, weight)  # neither shrinking nor fitting alone gets there


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "weight", [torch.zeros(2, 32), torch.full((2, 32), -0.7), torch.eye(32) * 1e-30], ids=["0", "-0.7", "tiny"]
)
def test_matrices_without_a_range(weight, bits):
    assert torch.allclose(unpack(pack(weight, bits)), weight, rtol=4e-3, atol=1e-6)


def test_packing_again_changes_nothing():
    for bits in (8, 4):
        once = unpack(pack(matrix(32, 64), bits))
        assert error(unpack(pack(once, bits)), once) < 5e-3


def test_pieces_are_packed_as_the_whole(monkeypatch):
    weight = matrix(40, 64)
    whole = pack(weight, 4)
    monkeypatch.setattr("gptwright.ops.packed._AT_ONCE", 7 * 64)
    pieces = pack(weight, 4)
    assert all(torch.equal(getattr(whole, name), getattr(pieces, name)) for name in ("q", "scale", "offset"))


def test_what_cannot_be_packed():
    assert packable(33, 8)
    assert packable(64, 4)
    assert not packable(33, 4)
    with pytest.raises(gw.GptwrightError, match="bits is 3, and weights are packed to 8 or 4 bits; choose one of the"):
        pack(matrix(2, 32), 3)
    with pytest.raises(gw.GptwrightError, match="not finite"):
        pack(torch.tensor([[1.0, float("nan")]]), 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", [*KERNELS, "unpacked"])
@pytest.mark.parametrize(("outputs", "columns"), [(50, 64), (17, 96), (257, 32), (32, 33)])
def test_kernels_compute_the_product(name, bits, dtype, outputs, columns):
    kernel = KERNELS.get(name, UNPACKED)
    if not packable(columns, bits):
        return
    packed = pack(matrix(outputs, columns), bits)
    for rows in (1, 3, 16):
        x = matrix(rows, columns, seed=rows).to(dtype)
        if kernel.takes(x, packed):
            exact = x.double() @ unpack(packed).double().T
            found = kernel.product(x, packed, None)
            assert found.dtype == dtype
            assert error(found, exact) < (1e-6 if dtype == torch.float32 else 1e-2)
            bias = matrix(outputs).to(dtype)
            assert error(kernel.product(x, packed, bias), exact + bias.double()) < (
                1e-6 if dtype == torch.float32 else 1e-2
            )


def test_torch_has_a_kernel_for_each_width_here():
    for bits in (8, 4):
        assert any(kernel.takes(matrix(1, 64), pack(matrix(32, 64), bits)) for kernel in KERNELS.values())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(64,), (1, 1, 64), (2, 5, 64), (3, 40, 64), (0, 64)])
def test_linear_takes_any_leading_shape(shape, bits):
    packed, bias, x = pack(matrix(48, 64), bits), matrix(48), matrix(*shape)
    found = linear(x, packed, bias)
    assert torch.allclose(found, F.linear(x, unpack(packed), bias), atol=1e-4)
    assert found.shape == (*shape[:-1], 48)
    assert linear(x.bfloat16(), packed, bias).dtype == torch.bfloat16


def test_many_rows_are_multiplied_in_pieces(monkeypatch):
    packed, x = pack(matrix(48, 64), 4), matrix(MANY_ROWS, 64)
    monkeypatch.setattr(quantized, "_PIECE", 7 * 64)
    assert kernel_for(x, packed) is UNPACKED
    assert torch.allclose(linear(x, packed), F.linear(x, unpack(packed)), atol=1e-4)


def test_gradients_reach_the_input():
    packed, x = pack(matrix(48, 64), 8), matrix(2, 64).requires_grad_()
    linear(x, packed).sum().backward()
    assert torch.allclose(x.grad, unpack(packed).sum(0).expand(2, -1), atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_embedding_unpacks_the_rows_asked_for(bits):
    packed, ids = pack(matrix(9, 32), bits), torch.tensor([[0, 8], [3, 3]])
    assert torch.equal(embedding(ids, packed, torch.float32), unpack(packed)[ids])
    for wrong in (9, -1):
        with pytest.raises(IndexError):
            embedding(torch.tensor([wrong]), packed, torch.float32)


def test_the_choice_is_by_time_and_by_being_right(afresh, monkeypatch):
    always = {"takes": lambda x, w: True}
    right = Kernel(**always, product=_instant)
    wrong = Kernel(**always, product=lambda x, w, b: x.new_zeros(len(x), w.shape[0]))
    broken = Kernel(**always, product=lambda x, w, b: torch.ops.aten._no_such_product(x))
    monkeypatch.setattr(quantized, "KERNELS", {"wrong": wrong, "right": right, "broken": broken})
    assert chosen(8, torch.float32, 1, (64, 128), "cpu", 1) == ("right",)


_KNOWN: dict[Packed, torch.Tensor] = {}


def _instant(x: torch.Tensor, weight: Packed, bias: None) -> torch.Tensor:
    """Remember a product instead of computing it again."""
    if weight not in _KNOWN:
        _KNOWN[weight] = UNPACKED.product(x, weight, bias)
    return _KNOWN[weight]


def test_without_a_kernel_one_warning_and_the_same_result(afresh, monkeypatch):
    packed, x = pack(matrix(48, 64), 4), matrix(3, 64)
    usual = linear(x, packed)
    chosen.cache_clear()
    monkeypatch.setattr(quantized, "KERNELS", {})
    with pytest.warns(UserWarning, match="no kernel here multiplies by weights of 4 bits on cpu: they are unpacked"):
        assert torch.allclose(linear(x, packed), usual, atol=1e-4)
    assert torch.allclose(linear(x[:1], packed), usual[:1], atol=1e-4)  # another number of rows: no second warning


def test_nibbles_are_those_of_the_bytes():
    packed = pack(matrix(2, 32), 4)
    assert nibbles(packed).shape == (2, 1, 32)
    assert torch.equal(nibbles(packed)[:, 0, :16] | nibbles(packed)[:, 0, 16:] << 4, packed.q)
