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


@pytest.mark.parametrize("causal", [False, True])
def test_queries_may_be_the_last_of_the_keys(agree, draw, causal):
    for queries in (1, 3, 140):
        qkv = draw((2, 4, queries, 6), (2, 2, 300, 6), (2, 2, 300, 6))
        agree(
            lambda *x: attention(*x, None, causal=causal),
            lambda *x: attention_reference(*x, None, causal=causal),
            qkv,
        )


def test_a_mask_holds_for_every_scoring(agree, draw):
    mask = Sequence.packed(torch.arange(400).view(2, 200) % 200 // 40 + 1).visible()
    inputs = draw((2, 4, 200, 6), (2, 2, 200, 6), (2, 2, 200, 6), (4,))
    slopes = torch.tensor([0.5, 0.1, 0.02, 0.3])
    agree(
        lambda q, k, v, sinks: attention(q, k, v, mask, scoring=Scoring(5.0, slopes, sinks)),
        lambda q, k, v, sinks: attention_reference(q, k, v, mask, scoring=Scoring(5.0, slopes, sinks)),
        inputs,
    )


@pytest.mark.parametrize("scored", [False, True])
def test_a_head_with_a_sink_may_look_at_nothing(draw, scored):
    q, k, v = draw(*[(1, 2, 150, 6)] * 3)
    mask = torch.ones(1, 150, 150, dtype=torch.bool).tril()
    mask[:, 70] = False
    sinks = torch.zeros(2, requires_grad=True)
    out = attention(q, k, v, mask, scoring=Scoring(3.0 if scored else None, None, sinks))
    assert out[:, :, 70].abs().max() == 0
    out.square().sum().backward()
    assert torch.isfinite(sinks.grad).all()


def test_dropout_keeps_the_mean_and_drops_whole_weights(draw):
    torch.manual_seed(0)
    q, k = draw((1, 1, 200, 4), (1, 1, 200, 4))
    ones = torch.ones(1, 1, 200, 4)
    out = attention(q, k, ones, None, causal=True, scoring=Scoring(dropout=0.5))[0, 0]
    assert out.mean() == pytest.approx(1, abs=0.1)
    assert set(out[0].tolist()) <= {0.0, 2.0}
