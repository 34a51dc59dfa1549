"""The gated delta rule in chunks against the recurrence, and both against transformers' code."""

import pytest
import torch

from gptwright.ops.delta_rule import gated_delta_rule, gated_delta_rule_reference, unit
from gptwright.ops.sequence import Sequence

from .conftest import relative_error

theirs = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")


def described(kind: str, length: int) -> Sequence:
    index = torch.arange(length).expand(2, length)
    if kind == "plain":
        return Sequence.plain(2, length)
    if kind == "padded":
        return Sequence.padded(index >= torch.tensor([[0], [length // 3]]))
    return Sequence.packed((index // 50 + 1) * (index % 9 > 0))  # padding inside documents too


def drawn(draw, length: int, heads: int = 3) -> tuple[torch.Tensor, ...]:
    return draw(*[(2, heads, length, 6)] * 2, (2, heads, length, 5), *[(2, heads, length)] * 2)


def run(function, seq: Sequence, strongest: float = 1.0, harsh: bool = False):
    """Return ``function`` of unbounded inputs, as a layer would bound them."""

    def ran(q, k, v, b, g):
        log_decay = -torch.nn.functional.softplus(g - 2)
        if harsh:
            log_decay = log_decay - 200 * (g > 1)
        out, _ = function(unit(q), unit(k), v, strongest * b.sigmoid(), log_decay, seq)
        return out * seq.real[:, None, :, None]

    return ran


@pytest.mark.parametrize("length", [1, 2, 63, 65, 200])
@pytest.mark.parametrize("kind", ["plain", "padded", "packed"])
@pytest.mark.parametrize("strongest", [1.0, 2.0])
@pytest.mark.parametrize("harsh", [False, True])
def test_chunks_equal_the_recurrence(agree, draw, length, kind, strongest, harsh):
    seq = described(kind, length)
    pair = (run(function, seq, strongest, harsh) for function in (gated_delta_rule, gated_delta_rule_reference))
    agree(*pair, drawn(draw, length), tolerance=2e-5)


@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_several_spans_equal_the_recurrence(agree, draw, kind):
    seq = described(kind, 1100)
    pair = (run(function, seq) for function in (gated_delta_rule, gated_delta_rule_reference))
    agree(*pair, drawn(draw, 1100, heads=1), tolerance=2e-5)


@pytest.mark.parametrize("name", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_it_is_transformers_rule(agree, draw, name):
    def expected(q, k, v, b, g):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        beta, log_decay = b.sigmoid().transpose(1, 2), -torch.nn.functional.softplus(g - 2).transpose(1, 2)
        out, _ = getattr(theirs, name)(q, k, v, log_decay, beta, use_qk_l2norm_in_kernel=True)
        return out.transpose(1, 2) * 6**0.5  # they scale queries

    agree(run(gated_delta_rule, Sequence.plain(2, 150)), expected, drawn(draw, 150))


def test_the_memory_is_transformers(draw):
    q, k, v, b, g = drawn(draw, 150)
    beta, log_decay = b.sigmoid(), -g.abs()
    start = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    out, memory = gated_delta_rule(unit(q), unit(k), v, beta, log_decay, Sequence.plain(2, 150, start=9), start)
    swapped = (x.transpose(1, 2) for x in (q, k, v, log_decay, beta))
    said = {"initial_state": start, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    expected, last = theirs.torch_recurrent_gated_delta_rule(*swapped, **said)
    assert relative_error(out, expected.transpose(1, 2) * 6**0.5) < 1e-5
    assert relative_error(memory, last) < 1e-5


@pytest.mark.parametrize("function", [gated_delta_rule, gated_delta_rule_reference])
@pytest.mark.parametrize("length", [1, 70])
def test_memory_of_another_document_is_left_behind(draw, length, function):
    q, k, v, b, g = drawn(draw, length)
    given = (unit(q), unit(k), v, b.sigmoid(), -g.abs())
    stale = torch.ones(2, 3, 6, 5)
    positions = torch.arange(length) + torch.tensor([[0], [5]])  # row 1 goes on
    seq = Sequence(positions, torch.full((2, length), 2))
    out, memory = function(*given, seq, stale)
    alone, own = gated_delta_rule(*given, seq)
    torch.testing.assert_close((out[0], memory[0]), (alone[0], own[0]))
    assert not torch.allclose(out[1], alone[1])
    torch.testing.assert_close(
        out[1:], gated_delta_rule(*(x[1:] for x in given), Sequence.plain(1, length, start=5), stale[1:])[0]
    )


@pytest.mark.parametrize("length", [1, 40])
def test_padding_changes_nothing(draw, length):
    q, k, v, b, g = drawn(draw, length)
    held = torch.ones(2, 3, 6, 5)
    nothing = Sequence(*[torch.zeros(2, length, dtype=torch.long)] * 2)
    out, memory = gated_delta_rule(unit(q), unit(k), v, b.sigmoid(), -g.abs(), nothing, held)
    assert torch.equal(memory, held)
    assert torch.isfinite(out).all()


def test_a_value_written_with_full_strength_is_read_back(draw):
    """What tells the delta rule from a sum: the key's older value is gone."""
    k, v = draw((1, 1, 1, 6), (1, 1, 3, 5))
    k = unit(k).expand(1, 1, 3, 6)
    for strength, expected in ((1.0, v[:, :, 2]), (2.0, 2 * (v[:, :, 0] - v[:, :, 1] + v[:, :, 2]))):
        out, _ = gated_delta_rule(k, k, v, torch.full((1, 1, 3), strength), torch.zeros(1, 1, 3), Sequence.plain(1, 3))
        torch.testing.assert_close(out[:, :, 2], expected, rtol=1e-4, atol=1e-4)


def test_equal_keys_at_full_strength_stay_bounded(draw):
    """The hardest system to solve: every key of a chunk is the same one."""
    k, v = draw((1, 2, 1, 6), (1, 2, 300, 5))
    k = unit(k, eps=0).expand(1, 2, 300, 6)
    for strength in (1.0, 2.0):
        beta, still = torch.full((1, 2, 300), strength), torch.zeros(1, 2, 300)
        found, _ = gated_delta_rule(k, k, v, beta, still, Sequence.plain(1, 300))
        expected, _ = gated_delta_rule_reference(k, k, v, beta, still, Sequence.plain(1, 300))
        assert relative_error(found, expected) < 5e-5


def test_bf16_values_come_back_in_bf16_and_the_memory_is_fp32(draw):
    q, k, v, b, g = (x.bfloat16() for x in drawn(draw, 70))
    out, memory = gated_delta_rule(unit(q), unit(k), v, b.sigmoid(), -g.abs(), Sequence.plain(2, 70))
    assert out.dtype == torch.bfloat16
    assert memory.dtype == torch.float32
