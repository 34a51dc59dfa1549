import pytest
import torch

import gptwright.ops.local_attention as module
from gptwright.ops.attention import Scoring, attention_reference
from gptwright.ops.local_attention import local_attention, local_attention_reference
from gptwright.ops.reference import reference_paths
from gptwright.ops.sequence import Sequence


def dense(*args, **kwargs):
    """The reference, with its own references."""
    with reference_paths():
        return local_attention_reference(*args, **kwargs)


def described(kind: str, length: int) -> Sequence:
    index = torch.arange(length).expand(2, length)
    if kind == "plain":
        return Sequence.plain(2, length)
    if kind == "left-padded":
        return Sequence.padded(index >= torch.tensor([[0], [length // 3]]))
    if kind == "packed":
        return Sequence.packed(index // 50 + 1)
    return Sequence.padded((index * 7 % 5 > 0) | (index == 0))  # padding between real tokens


WAYS = ("_one_after_the_other", "_all_at_once")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Both ways to work on blocks, whatever the device."""
    monkeypatch.setattr(module, "_suits_cache", lambda q, scoring: request.param == WAYS[0])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("length", [1, 2, 63, 65, 200, 270])
@pytest.mark.parametrize("window", [1, 5, 64, 70, 1000])
@pytest.mark.parametrize("kind", ["plain", "left-padded", "packed", "gaps"])
def test_blocks_equal_the_dense_mask(agree, draw, length, window, kind):
    seq = described(kind, length)
    real = seq.real[:, None, :, None]
    qkv = draw((2, 4, length, 6), (2, 2, length, 6), (2, 2, length, 6))

    def run(function):
        def mixed(q, k, v):  # with something that gives gradients a size where, in a window of 1, there are none
            return (function(q, k, v, seq, window) + 0.1 * q + 0.1 * k.repeat_interleave(2, 1)) * real

        return mixed

    agree(run(local_attention), run(dense), qkv)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("length", [65, 1000])
@pytest.mark.parametrize("window", [33, 128])
@pytest.mark.parametrize("kind", ["plain", "left-padded", "packed", "gaps"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("slopes", [None, torch.tensor([0.5, 0.1, 0.02, 0.3])])
@pytest.mark.parametrize("sinks", [False, True])
def test_every_scoring(agree, draw, length, window, kind, softcap, slopes, sinks):
    seq = described(kind, length)
    real = seq.real[:, None, :, None]
    inputs = draw((2, 4, length, 6), (2, 2, length, 6), (2, 2, length, 6), (4,))

    def run(function):
        def mixed(q, k, v, sinks=None):
            return function(q, k, v, seq, window, scoring=Scoring(softcap, slopes, sinks)) * real

        return mixed

    agree(run(local_attention), run(dense), inputs[: 3 + sinks])


def test_the_dense_mask_is_the_definition(draw):
    q, k, v = draw((1, 2, 90, 6), (1, 2, 90, 6), (1, 2, 90, 6))
    index = torch.arange(90)
    distance = index[:, None] - index
    expected = attention_reference(q, k, v, ((distance >= 0) & (distance < 7))[None])
    torch.testing.assert_close(local_attention(q, k, v, Sequence.plain(1, 90), 7), expected)


def test_a_window_of_one_sees_itself(draw):
    q, k, v = draw((1, 2, 300, 6), (1, 2, 300, 6), (1, 2, 300, 6))
    torch.testing.assert_close(local_attention(q, k, v, Sequence.plain(1, 300), 1), v)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["plain", "left-padded", "packed", "gaps"])
def test_no_mask_of_all_pairs_is_formed(draw, kind):
    """Nothing of the size T x T, even in bytes, exists at 4000 tokens."""
    length, window = 4000, 16
    q, k, v = (x.requires_grad_() for x in draw(*[(2, 1, length, 4)] * 3))
    seq = described(kind, length)
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
        local_attention(q, k, v, seq, window).sum().backward()
    assert largest < length * length


def test_dropout_in_a_window_keeps_the_mean(draw):
    torch.manual_seed(0)
    q, k = draw((1, 1, 2000, 4), (1, 1, 2000, 4))
    out = local_attention(q, k, torch.ones_like(q), Sequence.plain(1, 2000), 30, scoring=Scoring(dropout=0.5))
    assert out.mean() == pytest.approx(1, abs=0.05)
    assert out.std() > 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
@pytest.mark.parametrize("length", [150, 2500])
def test_one_graph_with_padding_in_between(agree, draw, length):
    torch.compiler.reset()
    mask = described("gaps", length).real

    def mixed(q, k, v):
        return local_attention(q, k, v, Sequence.padded(mask), 20) * mask[:, None, :, None]

    compiled = torch.compile(mixed, fullgraph=True, backend="aot_eager")
    agree(compiled, mixed, draw(*[(2, 2, length, 4)] * 3))
