import pytest
import torch

from gptwright.ops.attention import Scoring, attention, attention_reference
from gptwright.ops.sequence import Sequence

LENGTHS = (1, 2, 63, 65, 200)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_causal(agree, draw, length, kv_heads):
    qkv = draw((2, 4, length, 6), (2, kv_heads, length, 6), (2, kv_heads, length, 6))
    agree(
        lambda q, k, v: attention(q, k, v, None, causal=True),
        lambda q, k, v: attention_reference(q, k, v, None, causal=True),
        qkv,
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kv_heads", [4, 1])
def test_masked(agree, draw, length, kv_heads):
    mask = Sequence.packed((torch.arange(2 * length).view(2, length) % length) // 40).visible()
    qkv = draw((2, 4, length, 6), (2, kv_heads, length, 6), (2, kv_heads, length, 6))
    agree(lambda q, k, v: attention(q, k, v, mask), lambda q, k, v: attention_reference(q, k, v, mask), qkv)


def test_queries_may_be_fewer_than_keys(agree, draw):
    q, k, v = draw((2, 4, 3, 6), (2, 2, 90, 6), (2, 2, 90, 6))
    agree(lambda *x: attention(*x, None), lambda *x: attention_reference(*x, None), (q, k, v))


def test_large_scores_do_not_overflow(agree, draw):
    q, k, v = draw((1, 2, 130, 6), (1, 2, 130, 6), (1, 2, 130, 6))
    agree(
        lambda *x: attention(*x, None, causal=True),
        lambda *x: attention_reference(*x, None, causal=True),
        (q * 60, k * 60, v),
        tolerance=1e-2,
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_bf16_is_rounded_not_wrong(draw, length):
    q, k, v = (x.bfloat16() for x in draw((2, 4, length, 8), (2, 4, length, 8), (2, 4, length, 8)))
    found = attention(q, k, v, None, causal=True)
    exact = attention_reference(q.double(), k.double(), v.double(), None, causal=True)
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).norm() / exact.norm() < 8e-3


def test_long_sequences_take_another_path_to_the_same_result(draw, monkeypatch):
    import gptwright.ops.blocked_attention as blocked

    qkv = draw((1, 2, 300, 6), (1, 2, 300, 6), (1, 2, 300, 6))
    by_blocks = attention(*qkv, None, causal=True)
    monkeypatch.setattr(blocked, "LONGEST", 10)
    torch.testing.assert_close(attention(*qkv, None, causal=True), by_blocks)


def test_dropout_keeps_the_mean_and_drops_whole_weights(draw):
    torch.manual_seed(0)
    q, k = draw((1, 1, 200, 4), (1, 1, 200, 4))
    ones = torch.ones(1, 1, 200, 4)
    out = attention(q, k, ones, None, causal=True, scoring=Scoring(dropout=0.5))[0, 0]
    assert out.mean() == pytest.approx(1, abs=0.1)
    assert set(out[0].tolist()) <= {0.0, 2.0}
