import pytest
import torch

from gptwright.ops.linear_attention import (
    FEATURES,
    Features,
    empty_memory,
    linear_attention,
    linear_attention_reference,
)
from gptwright.ops.rotary import rotary_angles, rotate
from gptwright.ops.sequence import Sequence


def described(kind: str, length: int) -> Sequence:
    index = torch.arange(length).expand(2, length)
    if kind == "plain":
        return Sequence.plain(2, length)
    if kind == "padded":
        return Sequence.padded(index >= torch.tensor([[0], [length // 3]]))
    return Sequence.packed((index // 50 + 1) * (index % 9 > 0))  # padding inside documents too


def features_of(q, k, name: str, rotary: bool) -> Features:
    q, k = FEATURES[name](q), FEATURES[name](k)
    if not rotary:
        return Features(q, k, q, k)
    cos, sin = rotary_angles(torch.arange(q.shape[2])[None], q.shape[-1], 100.0)
    return Features(rotate(q, cos, sin), rotate(k, cos, sin), q, k)


@pytest.mark.parametrize("length", [1, 2, 63, 65, 200])
@pytest.mark.parametrize("kind", ["plain", "padded", "packed"])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("name", FEATURES)
def test_chunks_equal_one_dense_product(agree, draw, length, kind, rotary, name):
    seq = described(kind, length)
    real = seq.real[:, None, :, None]
    agree(
        lambda q, k, v: linear_attention(features_of(q, k, name, rotary), v, seq)[0] * real,
        lambda q, k, v: linear_attention_reference(features_of(q, k, name, rotary), v, seq) * real,
        draw(*[(2, 3, length, 6)] * 3),
        tolerance=5e-5,
    )


def test_memory_carries_over(draw):
    q, k, v = draw(*[(2, 3, 150, 6)] * 3)
    features = features_of(q, k, "elu", False)
    whole, last = linear_attention(features, v, Sequence.plain(2, 150))
    memory, outs = empty_memory(2, 3, 6), []
    for start, stop in ((0, 70), (70, 71), (71, 150)):
        part = Features(*(x[:, :, start:stop] for x in features))
        seq = Sequence.plain(2, stop - start, start=start)
        out, memory = linear_attention(part, v[:, :, start:stop], seq, memory)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 2), whole)
    torch.testing.assert_close(memory.kv, last.kv)
    torch.testing.assert_close(memory.k, last.k)


def test_memory_of_another_document_is_left_behind(draw):
    q, k, v = draw(*[(2, 3, 70, 6)] * 3)
    features = features_of(q, k, "elu", False)
    stale = empty_memory(2, 3, 6)._replace(kv=torch.ones(2, 3, 6, 6), k=torch.ones(2, 3, 6))
    seq = Sequence.packed(torch.full((2, 70), 2))
    out, memory = linear_attention(features, v, seq, stale, goes_on=torch.tensor([False, True]))
    alone, own = linear_attention(features, v, seq)
    torch.testing.assert_close(out[0], alone[0])
    torch.testing.assert_close(memory.kv[0], own.kv[0])
    assert not torch.allclose(out[1], alone[1])


def test_sums_stay_in_fp32_when_inputs_are_bf16(draw):
    q, k, v = (x.bfloat16() for x in draw(*[(1, 2, 200, 8)] * 3))
    out, memory = linear_attention(features_of(q, k, "elu", False), v, Sequence.plain(1, 200))
    assert out.dtype == torch.bfloat16
    assert {x.dtype for x in memory} == {torch.float32}
