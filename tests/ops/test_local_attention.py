import pytest
import torch

from gptwright.ops.attention import attention_reference
from gptwright.ops.local_attention import local_attention, local_attention_reference
from gptwright.ops.sequence import Sequence


def described(kind: str, length: int) -> Sequence:
    index = torch.arange(length).expand(2, length)
    if kind == "plain":
        return Sequence.plain(2, length)
    if kind == "left-padded":
        return Sequence.padded(index >= torch.tensor([[0], [length // 3]]))
    if kind == "packed":
        return Sequence.packed(index // 50 + 1)
    return Sequence.padded((index * 7 % 5 > 0) | (index == 0))  # padding between real tokens


@pytest.mark.parametrize("length", [1, 2, 63, 65, 200, 270])
@pytest.mark.parametrize("window", [1, 5, 64, 70, 1000])
@pytest.mark.parametrize("kind", ["plain", "left-padded", "packed", "gaps"])
def test_blocks_equal_the_dense_mask(agree, draw, length, window, kind):
    seq = described(kind, length)
    real = seq.real[:, None, :, None]
    qkv = draw((2, 4, length, 6), (2, 2, length, 6), (2, 2, length, 6))
    agree(
        lambda q, k, v: local_attention(q, k, v, seq, window) * real,
        lambda q, k, v: local_attention_reference(q, k, v, seq, window) * real,
        qkv,
    )


def test_the_dense_mask_is_the_definition(draw):
    q, k, v = draw((1, 2, 90, 6), (1, 2, 90, 6), (1, 2, 90, 6))
    index = torch.arange(90)
    distance = index[:, None] - index
    expected = attention_reference(q, k, v, ((distance >= 0) & (distance < 7))[None])
    torch.testing.assert_close(local_attention(q, k, v, Sequence.plain(1, 90), 7), expected)


def test_a_window_of_one_sees_itself(draw):
    q, k, v = draw((1, 2, 300, 6), (1, 2, 300, 6), (1, 2, 300, 6))
    torch.testing.assert_close(local_attention(q, k, v, Sequence.plain(1, 300), 1), v)


def test_no_mask_of_all_pairs_is_formed(draw):
    """Nothing of the size T x T, even in bytes, exists at 4000 tokens."""
    length, window = 4000, 16
    q, k, v = draw((1, 1, length, 4), (1, 1, length, 4), (1, 1, length, 4))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for found in out if isinstance(out, tuple | list) else (out,):
                if isinstance(found, torch.Tensor):
                    largest = max(largest, found.untyped_storage().nbytes())
            return out

    with Watch():
        local_attention(q, k, v, Sequence.plain(1, length), window)
    assert largest < length * length / 2
