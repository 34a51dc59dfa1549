"""Linear attention in chunks against the recurrence token by token, and that against one dense product."""

import pytest
import torch

from gptwright.ops.linear_attention import (
    FEATURES,
    POSITIVE,
    Features,
    empty_memory,
    linear_attention,
    linear_attention_reference,
)
from gptwright.ops.rotary import rotary_angles, rotate
from gptwright.ops.sequence import Sequence

from .conftest import relative_error

DECAYS = ("none", "fixed", "gated", "harsh")


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
        return Features(q, k)
    cos, sin = rotary_angles(torch.arange(q.shape[2])[None], q.shape[-1], 100.0)
    turned = rotate(q, cos, sin), rotate(k, cos, sin)
    return Features(*turned, q, k) if name in POSITIVE else Features(*turned)


def log_decays(kind: str, g: torch.Tensor) -> torch.Tensor | None:
    """Return log decays of a kind, made of ``g`` (B, H, T)."""
    fixed = torch.log1p(-(2.0 ** -(2 + torch.arange(g.shape[1]))))
    made = {
        "none": lambda: None,
        "fixed": lambda: fixed[None, :, None].expand(1, -1, g.shape[2]),
        "gated": lambda: torch.nn.functional.logsigmoid(g + 3),
        "harsh": lambda: -torch.where(g > 1, 90 + g, 0.01 * g.abs()),
    }
    return made[kind]()


@pytest.mark.parametrize("length", [1, 2, 63, 65, 200])
@pytest.mark.parametrize("kind", ["plain", "padded", "packed"])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("decay", DECAYS)
def test_chunks_equal_the_recurrence(agree, draw, length, kind, rotary, name, decay):
    seq = described(kind, length)
    real = seq.real[:, None, :, None]

    def run(function):
        def ran(q, k, v, g):
            said = {"log_decay": log_decays(decay, g), "normalise": name in POSITIVE}
            out, _ = function(features_of(q, k, name, rotary), v, seq, **said)
            return out * real + ((q * k).sum(-1) + g)[..., None]  # the mean of one value has no other gradient

        return ran

    inputs = draw(*[(2, 3, length, 6)] * 2, (2, 3, length, 5), (2, 3, length))
    agree(run(linear_attention), run(linear_attention_reference), inputs, tolerance=5e-5)


@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_several_spans_equal_the_recurrence(agree, draw, kind):
    seq = described(kind, 1100)
    real = seq.real[:, None, :, None]

    def run(function):
        def ran(q, k, v, g):
            return function(features_of(q, k, "elu", True), v, seq, log_decay=log_decays("gated", g))[0] * real

        return ran

    inputs = draw(*[(2, 2, 1100, 4)] * 3, (2, 2, 1100))
    agree(run(linear_attention), run(linear_attention_reference), inputs, tolerance=1e-4)


@pytest.mark.parametrize("kind", ["plain", "padded", "packed"])
def test_the_recurrence_is_a_weighted_mean(draw, kind):
    """Written once more, as one dense (T, T) matrix of products."""
    q, k, v, g = draw(*[(2, 3, 100, 6)] * 3, (2, 3, 100))
    seq, f = described(kind, 100), features_of(q, k, "elu", True)
    log_decay = log_decays("gated", g)
    seen = seq.visible()[:, None] & seq.real[:, None, None, :]
    total = (log_decay * seq.real[:, None]).cumsum(-1)
    left = (total[..., :, None] - total[..., None, :]).masked_fill(~seen, -torch.inf).exp()
    above, below = (f.q @ f.k.mT * left) @ v, (f.q_plain @ f.k_plain.mT * left).sum(-1, keepdim=True)
    found, _ = linear_attention_reference(f, v, seq, log_decay=log_decay)
    real = seq.real[:, None, :, None]
    assert relative_error(found * real, above / (below + 1e-6) * real) < 1e-5


def test_padding_neither_adds_nor_decays(draw):
    q, k, v, g = draw(*[(1, 3, 80, 6)] * 3, (1, 3, 80))
    mask = torch.rand(1, 80, generator=torch.Generator().manual_seed(0)) > 0.4
    log_decay = log_decays("gated", g)
    whole, memory = linear_attention(features_of(q, k, "elu", False), v, Sequence.padded(mask), log_decay=log_decay)
    q, k, v, short = (x[:, :, mask[0]] for x in (q, k, v, log_decay))
    seq = Sequence.plain(1, int(mask.sum()))
    alone, own = linear_attention(features_of(q, k, "elu", False), v, seq, log_decay=short)
    torch.testing.assert_close(whole[:, :, mask[0]], alone)
    torch.testing.assert_close(memory, own)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("function", [linear_attention, linear_attention_reference])
def test_memory_carries_over(draw, decay, normalise, function):
    q, k, v, g = draw(*[(2, 3, 150, 6)] * 3, (2, 3, 150))
    features, log_decay = features_of(q, k, "elu" if normalise else "identity", False), log_decays(decay, g)
    whole, last = linear_attention(features, v, Sequence.plain(2, 150), log_decay=log_decay, normalise=normalise)
    memory, outs = None, []
    for start, stop in ((0, 70), (70, 71), (71, 150)):
        q, k = (x[:, :, start:stop] for x in features[:2])
        seq = Sequence.plain(2, stop - start, start=start)
        own = None if log_decay is None else log_decay[:, :, start:stop]
        said = {"log_decay": own, "normalise": normalise, "memory": memory}
        out, memory = function(Features(q, k), v[:, :, start:stop], seq, **said)
        outs.append(out)
    assert relative_error(torch.cat(outs, 2), whole) < 1e-5
    for one, other in zip(memory, last, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 70])
@pytest.mark.parametrize("function", [linear_attention, linear_attention_reference])
def test_memory_of_another_document_is_left_behind(draw, length, function):
    q, k, v = draw(*[(2, 3, length, 6)] * 3)
    features = features_of(q, k, "elu", False)
    stale = empty_memory(2, 3, 6)._replace(kv=torch.ones(2, 3, 6, 6), k=torch.ones(2, 3, 6))
    positions = torch.arange(length) + torch.tensor([[0], [5]])  # row 1 goes on
    seq = Sequence(positions, torch.full((2, length), 2))
    out, memory = function(features, v, seq, memory=stale)
    alone, own = linear_attention(features, v, seq)
    torch.testing.assert_close(out[0], alone[0])
    torch.testing.assert_close(memory.kv[0], own.kv[0])
    torch.testing.assert_close(memory.kv[1], own.kv[1] + 1)
    assert not torch.allclose(out[1], alone[1])


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("decay", ["fixed", "gated"])
def test_padding_alone_leaves_the_memory_as_it_is(draw, length, decay):
    q, k, v, g = draw(*[(2, 3, length, 6)] * 3, (2, 3, length))
    held = empty_memory(2, 3, 6)._replace(kv=torch.ones(2, 3, 6, 6), k=torch.ones(2, 3, 6))
    nothing = Sequence(torch.zeros(2, length, dtype=torch.long), torch.zeros(2, length, dtype=torch.long))
    said = {"log_decay": log_decays(decay, g), "memory": held}
    out, memory = linear_attention(features_of(q, k, "elu", False), v, nothing, **said)
    torch.testing.assert_close(memory, held)
    assert torch.isfinite(out).all()


def test_a_memory_is_not_a_view_of_more(draw):
    q, k, v = draw(*[(2, 3, 150, 6)] * 3)
    _, memory = linear_attention(features_of(q, k, "elu", False), v, Sequence.plain(2, 150))
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in memory)


def test_denominators_stay_positive_under_any_decay(draw):
    q, k, v, g = draw(*[(1, 2, 300, 6)] * 3, (1, 2, 300))
    for strength in (0.0, 1.0, 100.0, 1e4):
        out, memory = linear_attention(
            features_of(q, k, "elu", True), v, Sequence.plain(1, 300), log_decay=-strength * g.abs()
        )
        assert torch.isfinite(out).all()
        assert (memory.k > 0).all()
        assert float(out.abs().max()) < 100


def test_sums_stay_in_fp32_when_inputs_are_bf16(draw):
    q, k, v = (x.bfloat16() for x in draw(*[(1, 2, 200, 8)] * 3))
    out, memory = linear_attention(features_of(q, k, "elu", False), v, Sequence.plain(1, 200))
    assert out.dtype == torch.bfloat16
    assert {x.dtype for x in memory} == {torch.float32}


def test_elu_features_are_torch_s(agree, draw):
    x = torch.cat((*draw((200,)), torch.tensor([0.0, -100.0, 100.0])))
    agree(FEATURES["elu"], lambda x: torch.nn.functional.elu(x) + 1, (x,))
