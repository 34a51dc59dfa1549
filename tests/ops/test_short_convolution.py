"""The short convolution against torch's, and against itself token by token."""

import pytest
import torch
import torch.nn.functional as F

from gptwright.ops.sequence import Sequence
from gptwright.ops.short_convolution import short_convolution, short_convolution_reference

KINDS = ("plain", "going on", "left", "between", "packed", "holes")


def described(kind: str, length: int) -> Sequence:
    index = torch.arange(length).expand(2, length)
    made = {
        "plain": lambda: Sequence.plain(2, length),
        "going on": lambda: Sequence.plain(2, length, start=7),
        "left": lambda: Sequence.padded(index >= torch.tensor([[0], [length // 3]])),
        "between": lambda: Sequence.padded(index % 3 != torch.tensor([[3], [1]])),
        "packed": lambda: Sequence.packed(index // 5 + 1),
        "holes": lambda: Sequence.packed((index // 5 + 1) * (index % 4 > 0)),
    }
    return made[kind]()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 5, 40])
@pytest.mark.parametrize("size", [2, 4])
def test_it_equals_the_reference(agree, draw, kind, length, size):
    seq = described(kind, length)

    def run(function, given):
        def ran(x, weight, memory):
            out, latest = function(x, weight, seq, memory if given else None)
            return torch.cat((out * seq.real[..., None], latest), 1) + memory.sum()

        return ran

    for given in (False, True):
        pair = (run(function, given) for function in (short_convolution, short_convolution_reference))
        agree(*pair, draw((2, length, 6), (6, size), (2, size - 1, 6)))


@pytest.mark.parametrize("kind", KINDS)
def test_of_one_token_it_is_a_scale(draw, kind):
    x, weight = draw((2, 40, 6), (6, 1))
    seq = described(kind, 40)
    out, latest = short_convolution(x, weight, seq, x[:, :0])
    torch.testing.assert_close(out * seq.real[..., None], x * weight[:, 0] * seq.real[..., None])
    assert latest.shape == (2, 0, 6)


def test_it_is_torch_s_depthwise_convolution(agree, draw):
    seq = Sequence.plain(2, 30)

    def torchs(x, weight):
        return F.conv1d(F.pad(x.mT, (3, 0)), weight[:, None], groups=6).mT

    agree(lambda x, w: short_convolution(x, w, seq)[0], torchs, draw((2, 30, 6), (6, 4)))


@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_padding_and_neighbours_are_not_seen(draw, kind):
    x, weight = draw((1, 40, 6), (6, 4))
    segments = torch.tensor([[0, 2, 2, 0, 2, 0, 0, 0, 2, 2] * 4])
    if kind == "packed":
        segments[:, 20:] *= 2
    out, latest = short_convolution(x, weight, Sequence.packed(segments))
    for segment in segments.unique()[1:]:
        where = segments[0] == segment
        alone, own = short_convolution(x[:, where], weight, Sequence.plain(1, int(where.sum())))
        torch.testing.assert_close(out[:, where], alone)
    torch.testing.assert_close(latest, own)


@pytest.mark.parametrize("function", [short_convolution, short_convolution_reference])
def test_pieces_equal_the_whole(draw, function):
    x, weight = draw((2, 40, 6), (6, 4))
    mask = torch.rand(2, 40, generator=torch.Generator().manual_seed(0)) > 0.4
    mask[1, :12] = False
    segments = mask * torch.where(torch.arange(40) < torch.tensor([[23], [40]]), 1, 2)
    whole = Sequence.packed(segments)
    expected, _ = short_convolution(x, weight, whole)
    memory, outs = x.new_zeros(2, 3, 6), []
    for part in torch.arange(40).split([1, 1, 3, 1, 5, 2, 1, 1, 10, 15]):
        seq = Sequence(whole.positions[:, part], segments[:, part], gapless=False)
        out, memory = function(x[:, part], weight, seq, memory)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1)[mask], expected[mask])


def test_a_memory_is_not_a_view_of_more(draw):
    x, weight = draw((2, 40, 6), (6, 4))
    for kind in KINDS:
        _, latest = short_convolution(x, weight, described(kind, 40))
        assert latest.untyped_storage().nbytes() == latest.nbytes


def test_a_fresh_start_leaves_the_memory_behind(draw):
    x, weight, stale = draw((2, 40, 6), (6, 4), (2, 3, 6))
    for seq in (Sequence.plain(2, 40), Sequence.packed(torch.ones(2, 40))):
        torch.testing.assert_close(short_convolution(x, weight, seq, stale), short_convolution(x, weight, seq))
