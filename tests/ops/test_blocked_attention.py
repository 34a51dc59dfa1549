import pytest
import torch

import gptwright.ops.attention_blocks as attention_blocks
import gptwright.ops.blocked_attention as blocked
from gptwright.ops.attention import Scoring, attention
from gptwright.ops.attention_reference import sighted_reference
from gptwright.ops.attention_rules import PLAIN, Sight
from gptwright.ops.blocked_attention import blocked_attention, suits_blocks

LENGTHS = (1, 2, 63, 65, 1000)
CAUSAL = Sight(causal=True)
SLOPES = torch.tensor([0.5, 0.1, 0.02, 0.3])


def both(agree, inputs, sight, *, softcap=None, slopes=None, tolerance=2e-5, positions=None):
    """Compare blocks with all pairs at once; a fourth input is the sinks."""

    def run(function):
        def mixed(q, k, v, sinks=None):
            scoring = Scoring(softcap, slopes, sinks)
            return function(q, k, v, sight, scoring=scoring, positions=positions)

        return mixed

    agree(run(blocked_attention), run(sighted_reference), inputs, tolerance)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_causal(agree, draw, length, kv_heads):
    both(agree, draw((2, 4, length, 6), (2, kv_heads, length, 6), (2, kv_heads, length, 6)), CAUSAL)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("slopes", [None, SLOPES])
@pytest.mark.parametrize("sinks", [False, True])
def test_every_scoring(agree, draw, length, softcap, slopes, sinks):
    inputs = draw((2, 4, length, 6), (2, 2, length, 6), (2, 2, length, 5), (4,))
    both(agree, inputs[: 3 + sinks], CAUSAL, softcap=softcap, slopes=slopes)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("window", [1, 5, 64, 70, 300, 2000])
@pytest.mark.parametrize("sinks", [False, True])
def test_windows(agree, draw, length, window, sinks):
    inputs = draw((2, 4, length, 6), (2, 2, length, 6), (2, 2, length, 6), (4,))
    both(agree, inputs[: 3 + sinks], Sight(causal=True, window=window))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scored", [False, True])
def test_masks_and_segments(agree, draw, rows, causal, scored):
    length = 200
    mask = (torch.arange(rows * length * length) % 7 > 2).view(rows, length, length) | torch.eye(length).bool()
    segments = torch.arange(length).expand(rows, length) // 90 + torch.arange(rows)[:, None]
    at = torch.arange(length).expand(rows, length) * 3
    inputs = draw((2, 4, length, 6), (2, 2, length, 6), (2, 2, length, 6), (4,))
    for sight in (Sight(causal, mask=mask), Sight(causal, segments=(segments, segments))):
        both(agree, inputs[: 3 + scored], sight, slopes=SLOPES if scored else None, positions=(at, at))


@pytest.mark.parametrize(("queries", "keys"), [(1, 90), (3, 90), (130, 400)])
@pytest.mark.parametrize("window", [None, 33])
def test_the_last_query_stands_at_the_last_key(agree, draw, queries, keys, window):
    inputs = draw((2, 4, queries, 6), (2, 2, keys, 6), (2, 2, keys, 6))
    both(agree, inputs, Sight(causal=True, window=window))
    both(agree, inputs, Sight(causal=True, window=window), slopes=SLOPES)


def test_several_groups_of_heads(agree, draw, monkeypatch):
    monkeypatch.setattr(attention_blocks, "_CPU_BYTES", 1 << 17)
    segments = torch.arange(300).expand(2, 300) // 90 + torch.arange(2)[:, None]
    inputs = draw((2, 6, 300, 6), (2, 3, 300, 6), (2, 3, 300, 6), (6,))
    slopes = torch.arange(6) / 10
    for sight in (CAUSAL, Sight(causal=True, window=70), Sight(causal=True, segments=(segments, segments))):
        both(agree, inputs[:3], sight)
        both(agree, inputs, sight, slopes=slopes, softcap=3.0)


@pytest.mark.parametrize("longest", [0, 10_000])
def test_weights_kept_or_computed_again(agree, draw, monkeypatch, longest):
    monkeypatch.setattr(blocked, "LONGEST", longest)
    both(agree, draw(*[(2, 3, 300, 6)] * 3), CAUSAL)


@pytest.mark.parametrize("sight", [CAUSAL, Sight(causal=True, window=40)])
def test_gradients_are_those_of_finite_differences(sight):
    torch.manual_seed(0)
    q, k, v, sinks = (torch.randn(s, dtype=torch.double) for s in ((1, 2, 66, 2), (1, 1, 66, 2), (1, 1, 66, 2), (2,)))
    slopes = torch.tensor([0.3, 0.1], dtype=torch.double)

    def mixed(q, k, v, sinks):
        return blocked_attention(q, k, v, sight, scoring=Scoring(2.0, slopes, sinks))

    inputs = [x.requires_grad_() for x in (q, k, v, sinks)]
    assert torch.autograd.gradcheck(mixed, inputs, fast_mode=True)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sight", [CAUSAL, Sight(causal=True, window=70)])
@pytest.mark.parametrize("scored", [False, True])
def test_bf16_is_rounded_not_wrong(length, sight, scored):
    torch.manual_seed(0)
    inputs = [torch.randn(s).bfloat16().requires_grad_() for s in ((2, 4, length, 16),) * 3 + ((4,),)]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    outs = []
    for function, (*qkv, sinks) in ((blocked_attention, inputs), (sighted_reference, wide)):
        outs.append(function(*qkv, sight, scoring=Scoring(5.0, SLOPES, sinks) if scored else PLAIN))
    grad = torch.randn(outs[0].shape).bfloat16()
    used = slice(3 + scored)
    found = [outs[0], *torch.autograd.grad(outs[0], inputs[used], grad)]
    wanted = [outs[1], *torch.autograd.grad(outs[1], wide[used], grad.double())]
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.double() - other).norm() <= 2e-2 * other.norm() + 1e-2 * (length <= 2)


def test_the_first_keys_of_a_block_save_work_and_change_nothing(agree, draw):
    segments = (torch.arange(300) // 64)[None]
    sight = Sight(causal=True, segments=(segments, segments), first_keys=(0, 64, 128, 192, 256))
    inputs = draw(*[(2, 3, 300, 6)] * 3)
    both(agree, inputs, sight)
    late = blocked_attention(*inputs, Sight(causal=True, first_keys=(0, 64, 128, 192, 256)))
    torch.testing.assert_close(late, sighted_reference(*inputs, sight)[..., :], rtol=1e-5, atol=1e-5)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The size in bytes of the largest tensor that is made."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for found in out if isinstance(out, tuple | list) else (out,):
            if isinstance(found, torch.Tensor):
                self.nbytes = max(self.nbytes, found.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("scored", [False, True])
def test_nothing_as_large_as_all_pairs_is_made(scored):
    length = 3000
    q, k, v = (torch.randn(1, 2, length, 4, requires_grad=True) for _ in range(3))
    scoring = Scoring(5.0, SLOPES[:2], torch.zeros(2, requires_grad=True)) if scored else PLAIN
    with Largest() as largest:
        attention(q, k, v, None, causal=True, scoring=scoring).sum().backward()
    assert largest.nbytes < length * length * 4 / 4  # of one head, where there are two


def test_what_is_left_in_memory_is_never_read(draw, monkeypatch):
    inputs = [x.requires_grad_() for x in draw(*[(2, 3, 300, 6)] * 3)]
    sight = Sight(causal=True, window=70)
    expected = blocked_attention(*inputs, sight)
    grads = torch.autograd.grad(expected.square().sum(), inputs)
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        make = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, _make=make, **k: _make(*a, **k).fill_(torch.nan))
    found = blocked_attention(*inputs, sight)
    assert torch.equal(found, expected)
    for one, other in zip(torch.autograd.grad(found.square().sum(), inputs), grads, strict=True):
        assert torch.equal(one, other)


def test_short_sequences_and_other_types_are_left_to_torch():
    assert suits_blocks(torch.zeros(1, 1, 100_000, 2))
    assert not suits_blocks(torch.zeros(1, 1, 127, 2))
    assert suits_blocks(torch.zeros(1, 1, 127, 2, dtype=torch.bfloat16))
    assert not suits_blocks(torch.zeros(1, 1, 500, 2, dtype=torch.float16))


DROPPED = Scoring(dropout=0.3)


@pytest.mark.parametrize("sight", [CAUSAL, Sight(causal=True, window=70)])
@pytest.mark.parametrize("scored", [False, True])
def test_dropout_keeps_the_mean(draw, sight, scored):
    q, k, v = draw(*[(1, 2, 100, 4)] * 3)
    scoring = Scoring(5.0, SLOPES[:2], torch.ones(2), dropout=0.3) if scored else DROPPED
    torch.manual_seed(0)
    draws = torch.stack([blocked_attention(q, k, v, sight, scoring=scoring) for _ in range(1500)])
    expected = blocked_attention(q, k, v, sight, scoring=scoring._replace(dropout=0.0))
    far = (draws.mean(0) - expected).abs() / (draws.std(0) / 1500**0.5 + 1e-3)
    assert far.max() < 5.5
    assert (draws[:, 0, 0, 0] != 0).float().mean(0).max() + 0.05 > 0.7
    assert (draws[0] - draws[1]).abs().max() > 0.1


@pytest.mark.parametrize("sight", [CAUSAL, Sight(causal=True, window=70)])
@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("kept", [True, False])
def test_both_passes_drop_the_same_weights(sight, scored, kept, monkeypatch):
    monkeypatch.setattr(blocked, "LONGEST", 2048 if kept else 0)
    torch.manual_seed(1)
    q, k, v, sinks = (torch.randn(s, dtype=torch.double) for s in ((1, 2, 130, 2),) * 3 + ((2,),))
    slopes = torch.tensor([0.3, 0.1], dtype=torch.double)

    def mixed(q, k, v, sinks):
        torch.manual_seed(7)  # the same weights fall in each call
        scoring = Scoring(2.0, slopes, sinks, dropout=0.3) if scored else DROPPED
        return blocked_attention(q, k, v, sight, scoring=scoring) + 0 * sinks.sum()

    assert torch.autograd.gradcheck(mixed, [x.requires_grad_() for x in (q, k, v, sinks)], fast_mode=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.timeout(300)
def test_one_graph(agree, draw, backend, scored):
    torch.compiler.reset()
    sight = Sight(causal=True, window=40)

    def mixed(function):
        def run(q, k, v, sinks):
            scoring = Scoring(5.0, SLOPES, sinks) if scored else PLAIN
            return function(q, k, v, sight, scoring=scoring) + 0 * sinks.sum()

        return run

    compiled = torch.compile(mixed(blocked_attention), fullgraph=True, backend=backend)
    inputs = draw((2, 4, 150, 8), (2, 2, 150, 8), (2, 2, 150, 6), (4,))
    agree(compiled, mixed(sighted_reference), inputs)
