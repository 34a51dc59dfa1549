"""Decayed sums, and every gradient of them, against one dense product in which the first memory is a key too."""

import pytest
import torch

from gptwright.ops.chunked_sums import chunked_sums, decays_in_spans
from gptwright.ops.chunks import joined
from gptwright.ops.sequence import Sequence


@pytest.mark.parametrize("length", [3, 65, 600, 1030])
@pytest.mark.parametrize("decayed", [False, True])
def test_sums_and_gradients(agree, draw, length, decayed):
    seq = Sequence.plain(1, length, start=5)

    def fast(q, k, v, g, held):
        decay = decays_in_spans(-g.abs() / 10 if decayed else None, seq)
        outs, last = chunked_sums(q, k, v, seq, decay, held)
        return torch.cat((joined(outs, length), last), 2) + 0 * g.sum()

    def dense(q, k, v, g, held):
        total = (-g.abs() / 10 if decayed else 0 * g).cumsum(-1)
        left = (total[..., :, None] - total[..., None, :]).tril().exp().tril()
        out = (q @ k.mT * left) @ v + q @ held * total.exp()[..., None]
        last = (k * left[..., -1, :, None]).mT @ v + held * total[..., -1, None, None].exp()
        return torch.cat((out, last), 2) + 0 * g.sum()

    inputs = draw((1, 2, length, 4), (1, 2, length, 4), (1, 2, length, 3), (1, 2, length), (1, 2, 4, 3))
    agree(fast, dense, inputs, tolerance=1e-4)


def test_decays_are_cut_like_the_sequence():
    seq = Sequence.plain(2, 1030)
    assert [found.across.shape[-1] for found in decays_in_spans(None, seq)] == [9, 9, 2]
    shared = decays_in_spans(torch.full((1, 3, 1030), -0.1), seq)
    assert shared[0].within.shape == (1, 3, 8, 64, 64)


def test_gradients_come_back_in_the_dtype_of_their_inputs(draw):
    q, k, v = (x.bfloat16().requires_grad_() for x in draw(*[(1, 2, 70, 4)] * 3))
    seq, held = Sequence.plain(1, 70), torch.zeros(1, 2, 4, 4)
    outs, last = chunked_sums(q, k, v, seq, decays_in_spans(None, seq), held)
    assert (outs[0].dtype, last.dtype) == (torch.float32, torch.float32)
    outs[0].sum().backward()
    assert {x.grad.dtype for x in (q, k, v)} == {torch.bfloat16}
