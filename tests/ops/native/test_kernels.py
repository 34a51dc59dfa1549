"""Native kernels: what torch computes, and for each row the same bits whatever stands beside it."""

import pytest
import torch
import torch.nn.functional as F

from gptwright.ops.attention_rules import Scoring
from gptwright.ops.decode_attention import decode_attention_reference, store_reference
from gptwright.ops.native import build, kernels
from gptwright.ops.packed import pack, unpack
from gptwright.ops.rotary import cosines_and_sines, rotary_frequencies, rotate_reference

pytestmark = pytest.mark.skipif(
    build.library() is None, reason=f"no native kernels: {build.why_not()}; with a C++ compiler they are tested"
)
DTYPES = [torch.float32, torch.bfloat16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
WIDTHS = [(64, 65), (384, 100), (100, 37), (7, 3), (768, 50)]


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    found, expected = found.double(), expected.double()
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
    assert error < (2e-6 if dtype == torch.float32 else 1e-2), error


def weights(kind: str, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[tuple, torch.Tensor]:
    """Return the arguments of `kernels.linear` after the bias, and the weight that they stand for."""
    plain = draw(outputs, inputs, seed=1)
    if kind == "plain":
        return (), plain.to(dtype)
    packed = pack(plain, 8 if kind == "int8" else 4)
    return (packed.scale, packed.offset), unpack(packed, torch.float32)


@dtypes
@pytest.mark.parametrize("kind", ["plain", "int8", "int4"])
def test_a_linear_layer_is_that_of_torch_and_each_row_the_same_bits_in_any_batch(dtype, kind):
    for inputs, outputs in WIDTHS:
        if kind == "int4" and inputs % 32:
            continue
        x, bias = draw(37, inputs, dtype=dtype), draw(outputs, dtype=dtype, seed=2)
        more, exact = weights(kind, outputs, inputs, dtype)
        weight = exact if kind == "plain" else pack(draw(outputs, inputs, seed=1), 8 if kind == "int8" else 4).q
        for given in (bias, None):
            alone = torch.cat([kernels.linear(x[i : i + 1], weight, given, *more) for i in range(37)])
            expected = x.double() @ exact.double().T + (0 if given is None else given.double())
            near(alone, expected, dtype)
            for rows in (2, 3, 4, 5, 8, 9, 12, 16, 37):
                assert torch.equal(kernels.linear(x[:rows], weight, given, *more), alone[:rows])


@dtypes
def test_rows_may_lie_apart(dtype):
    x, weight = draw(6, 96, dtype=dtype)[:, 32:64], draw(5, 32, dtype=dtype, seed=1)
    near(kernels.linear(x, weight, None), x.double() @ weight.double().T, dtype)


@dtypes
def test_each_head_has_its_own_weight(dtype):
    x, weight = draw(2, 3, 4, 16, dtype=dtype), draw(3, 10, 16, dtype=dtype, seed=1)
    near(kernels.per_head(x, weight), torch.einsum("bhtd,hed->bhte", x.double(), weight.double()), dtype)


@dtypes
def test_norms(dtype):
    for width in (64, 33, 5):
        x, weight, bias = draw(3, 4, width, dtype=dtype), draw(width, dtype=dtype), draw(width, dtype=dtype, seed=3)
        x = x + 3
        wide = [each.double() for each in (x, weight, bias)]
        near(kernels.norm(x, weight, bias, 1e-5, centred=True), F.layer_norm(wide[0], (width,), *wide[1:], 1e-5), dtype)
        near(kernels.norm(x, None, None, 1e-6, centred=False), F.rms_norm(wide[0], (width,), None, 1e-6), dtype)


@dtypes
def test_rotation(dtype):
    for width, batch in ((8, 1), (6, 3)):
        x = draw(3, 5, 2, 4, 8, dtype=dtype)[:, :, 0].transpose(1, 2)  # (B, H, T, d) with gaps
        positions = torch.randint(0, 90, (batch, 5), generator=torch.Generator().manual_seed(0))
        cos, sin = (each.to(dtype) for each in cosines_and_sines(positions, rotary_frequencies(width, 1e4)))
        near(kernels.rotate(x, cos, sin), rotate_reference(x.double(), cos.double(), sin.double()), dtype)


@dtypes
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations_far_out_too(dtype, activation):
    x = torch.cat((torch.linspace(-100, 100, 1001), draw(42))).to(dtype)
    how = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu, "gelu_tanh": lambda y: F.gelu(y, approximate="tanh")}
    expected = how[activation](x.double())
    found = kernels.bend(x, activation).double()
    assert float((found - expected).abs().max()) < (1e-5 if dtype == torch.float32 else 0.3)
    assert float((found - expected)[x.abs() < 6].abs().max()) < (2e-6 if dtype == torch.float32 else 2e-2)


@dtypes
def test_sums_products_and_other_types(dtype):
    x, y = draw(3, 37, dtype=dtype), draw(3, 37, dtype=dtype, seed=1)
    assert torch.equal(kernels.add(x, y, 0.5), torch.add(x, y, alpha=0.5))
    assert torch.equal(kernels.multiply(x, y), x * y)
    other = DTYPES[1 - DTYPES.index(dtype)]
    assert torch.equal(kernels.cast(x, other), x.to(other))
    ids = torch.tensor([[3, 0], [36, 3]])
    assert torch.equal(kernels.embed(ids, x.T.contiguous()), x.T[ids])


def test_numbers_that_are_none_stay_none_in_bf16():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.4e38, 1e-40])
    found, expected = kernels.cast(x, torch.bfloat16), x.to(torch.bfloat16)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found[1:4], expected[1:4])


@dtypes
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("rules", ["plain", "softcap", "slopes", "sinks"])
def test_attention_over_a_cache(dtype, window, rules):
    heads, kv_heads, width, length = 4, 2, 24, 130
    ring = window and 7
    scoring = Scoring(
        softcap=2.0 if rules == "softcap" else None,
        slopes=torch.tensor([0.5, 0.25, 0.1, 0.0]) if rules == "slopes" else None,
        sinks=draw(heads, dtype=dtype) if rules == "sinks" else None,
    )
    positions = torch.tensor([[0], [129], [64]])
    q, k = draw(3, heads, 1, width, dtype=dtype), draw(3, kv_heads, length, width, dtype=dtype, seed=1)
    v = draw(3, kv_heads, length, 20, dtype=dtype, seed=2)
    found = kernels.attend(q, k, v, positions, ring or length, window, scoring)
    wide = Scoring(scoring.softcap, scoring.slopes, None if scoring.sinks is None else scoring.sinks.double())
    expected = decode_attention_reference(
        q.double(), k.double(), v.double(), positions, ring=ring, window=window, scoring=wide
    )
    near(found, expected, dtype)


@dtypes
def test_several_queries_of_a_row_see_what_each_alone_would(dtype):
    q, k, v = (draw(2, 3, 50, 16, dtype=dtype, seed=seed) for seed in range(3))
    positions = torch.tensor([[10, 11, 12], [47, 48, 49]])
    queries = q[:, :, :3]
    together = kernels.attend(queries, k, v, positions, 50, None, Scoring())
    for at in range(3):
        alone = kernels.attend(queries[:, :, at : at + 1], k, v, positions[:, at : at + 1], 50, None, Scoring())
        assert torch.equal(together[:, :, at : at + 1], alone)


@dtypes
def test_tokens_are_kept_at_their_places(dtype):
    x, positions = draw(2, 3, 4, 8, dtype=dtype), torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]])
    expected = torch.zeros(2, 3, 9, 8, dtype=dtype)
    store_reference(x, expected, positions, 8)
    for given in (x, x.mT.contiguous().mT, x.transpose(1, 2).contiguous().transpose(1, 2)):
        found = torch.zeros_like(expected)
        kernels.store(given, found, positions, 8)
        assert torch.equal(found, expected)
