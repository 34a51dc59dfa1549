import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import gptwright as gw
from gptwright.ops import loss as module
from gptwright.ops.loss import IGNORE, chunked_loss, chunked_loss_reference, loss


@pytest.fixture(params=[1 << 24, 40, 1])
def chunk(request, monkeypatch):
    """Everything at once, a few rows at a time, row by row."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", request.param)


def targets_of(rows: int, vocab: int) -> torch.Tensor:
    targets = torch.arange(rows) * 5 % vocab
    targets[::4] = IGNORE
    return targets


@pytest.mark.parametrize("rows", [1, 2, 63, 65, 200])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.usefixtures("chunk")
def test_chunks_equal_the_whole(agree, draw, rows, smoothing):
    targets = targets_of(rows, 11)
    targets[-1] = 3
    agree(
        lambda h, w: chunked_loss(h, w, targets, label_smoothing=smoothing),
        lambda h, w: F.cross_entropy(h @ w.mT, targets, reduction="sum", label_smoothing=smoothing),
        draw((rows, 6), (11, 6)),
    )


@pytest.mark.parametrize("softcap", [0.5, 3.0, 30.0])
@pytest.mark.usefixtures("chunk")
def test_bounded_logits_chunk_by_chunk_equal_the_whole(agree, draw, softcap):
    targets = targets_of(65, 11)
    agree(
        lambda h, w: chunked_loss(h, w, targets, label_smoothing=0.1, softcap=softcap),
        lambda h, w: F.cross_entropy(
            softcap * torch.tanh(h @ w.mT / softcap), targets, reduction="sum", label_smoothing=0.1
        ),
        draw((65, 6), (11, 6)),
    )


@pytest.mark.usefixtures("chunk")
def test_gradients_only_where_they_are_wanted(draw):
    hidden, head = draw((9, 6), (11, 6))
    frozen = chunked_loss(hidden.clone().requires_grad_(), head, targets_of(9, 11))
    frozen.backward()
    both = hidden.clone().requires_grad_()
    chunked_loss(both, head.clone().requires_grad_(), targets_of(9, 11)).backward()
    assert both.grad.abs().max() > 0
    with torch.no_grad():
        assert chunked_loss(hidden, head, targets_of(9, 11)).item() == pytest.approx(frozen.item(), rel=1e-6)


@pytest.mark.usefixtures("chunk")
def test_gradients_are_scaled_by_what_comes_from_above(draw):
    hidden, head = draw((9, 6), (11, 6))
    grads = []
    for factor in (1.0, 0.125):
        leaf = head.clone().requires_grad_()
        (chunked_loss(hidden, leaf, targets_of(9, 11)) * factor).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], grads[0] * 0.125)


def test_bf16_inputs_give_an_fp32_loss(draw):
    hidden, head = (x.bfloat16().requires_grad_() for x in draw((65, 6), (11, 6)))
    targets = targets_of(65, 11)
    found = chunked_loss(hidden, head, targets)
    found.backward()
    exact = F.cross_entropy(hidden.double() @ head.double().mT, targets, reduction="sum")
    assert found.dtype == torch.float32
    assert (hidden.grad.dtype, head.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    assert found.item() == pytest.approx(exact.item(), rel=5e-3)


def test_nothing_counts(draw):
    hidden, head = (x.requires_grad_() for x in draw((5, 6), (11, 6)))
    found = chunked_loss(hidden, head, torch.full((5,), IGNORE))
    found.backward()
    assert found.item() == 0
    assert hidden.grad.abs().max() == 0


def test_the_public_loss_is_a_mean_over_what_counts(draw):
    logits = draw((2, 4, 7))[0]
    targets = torch.tensor([[1, 2, 9, 9], [3, 9, 0, 6]])
    found = gw.loss(logits, targets, ignore_index=9)
    log_probs = logits.log_softmax(-1)
    picked = [log_probs[b, t, targets[b, t]] for b in range(2) for t in range(4) if targets[b, t] != 9]
    assert found.item() == pytest.approx(-sum(picked).item() / 5, rel=1e-6)
    assert gw.loss(torch.zeros(3, 7), torch.tensor([0, 1, 2])).item() == pytest.approx(math.log(7))
    assert gw.loss(logits, targets, ignore_index=9, reduction="none").shape == (8,)


def exact(hidden, head, targets, label_smoothing=0.0, z_loss=0.0, softcap=None, bias=None):
    """Write the summed loss out in float64, target by target."""
    logits = hidden.double() @ head.double().mT + (0 if bias is None else bias.double())
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    total = torch.zeros((), dtype=torch.float64)
    for row, target in zip(logits, targets.tolist(), strict=True):
        if target != IGNORE:
            smoothed = (1 - label_smoothing) * row[target] + label_smoothing * row.mean()
            denominator = row.exp().sum().log()
            total = total + denominator - smoothed + z_loss * denominator**2
    return total


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 40),
    vocab=st.integers(2, 70),
    chunk=st.integers(1, 300),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    z_loss=st.sampled_from([0.0, 1e-4, 0.1]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    biased=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_chunks_of_any_loss_equal_what_is_written_out(
    rows, vocab, chunk, smoothing, z_loss, softcap, ignored, scale, biased, seed
):
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (torch.randn(n, 5, generator=generator) * scale**0.5 for n in (rows, vocab))
    targets = torch.randint(vocab, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < ignored] = IGNORE
    options = {"label_smoothing": smoothing, "z_loss": z_loss, "softcap": softcap}
    options |= {"bias": torch.randn(vocab, generator=generator)} if biased else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ELEMENTS", chunk)
        found = outcome(chunked_loss, hidden, head, targets, options)
    for other, tolerance in ((chunked_loss_reference, 2e-5), (exact, 3e-6)):
        for one, expected in zip(found, outcome(other, hidden, head, targets, options), strict=True):
            size = expected.abs().max() if expected.numel() else 0.0
            torch.testing.assert_close(one, expected.float(), rtol=0, atol=float(tolerance * size + 1e-6 * scale))


def outcome(function, hidden, head, targets, options):
    """Return the loss and both gradients, and that of a bias where the options have one."""
    leaves = [x.clone().requires_grad_() for x in (hidden, head)]
    bias = [options["bias"].clone().requires_grad_()] if "bias" in options else []
    value = function(*leaves, targets, **(options | {"bias": bias[0]} if bias else options))
    if value.requires_grad:
        value.backward()
    return [value.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves + bias)]


def test_a_large_odd_vocabulary_to_a_millionth(draw):
    hidden, head = draw((700, 16), (50257, 16))  # at most 333 rows a chunk: 3 chunks
    head *= 0.25
    targets = torch.arange(700) * 71 % 50257
    targets[::7] = IGNORE
    found, plain = (outcome(f, hidden, head, targets, {}) for f in (chunked_loss, chunked_loss_reference))
    for one, expected in zip(found, plain, strict=True):
        assert float((one - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.usefixtures("chunk")
def test_a_bias_learns_though_all_else_is_frozen(draw):
    hidden, head, bias = (x.bfloat16() for x in draw((9, 6), (11, 6), (11,)))
    leaf = bias.clone().requires_grad_()
    chunked_loss(hidden, head, targets_of(9, 11), bias=leaf).backward()
    wide = bias.float().requires_grad_()
    chunked_loss_reference(hidden.float(), head.float(), targets_of(9, 11), bias=wide).backward()
    assert leaf.grad.dtype == torch.bfloat16
    torch.testing.assert_close(leaf.grad.float(), wide.grad, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("frozen", ["hidden", "head"])
@pytest.mark.usefixtures("chunk")
def test_each_gradient_is_the_same_without_the_other(draw, frozen):
    hidden, head = draw((9, 6), (11, 6))
    options = {"label_smoothing": 0.1, "z_loss": 0.01}
    _, *both = outcome(chunked_loss, hidden, head, targets_of(9, 11), options)
    leaves = [x.clone().requires_grad_(name != frozen) for name, x in (("hidden", hidden), ("head", head))]
    chunked_loss(*leaves, targets_of(9, 11), **options).backward()
    for leaf, expected in zip(leaves, both, strict=True):
        assert leaf.grad is None if not leaf.requires_grad else torch.equal(leaf.grad, expected)


def test_a_graph_that_is_kept_gives_the_same_gradients_again(draw):
    hidden, head = (x.requires_grad_() for x in draw((9, 6), (11, 6)))
    value = chunked_loss(hidden, head, targets_of(9, 11)) * 0.3
    first = torch.autograd.grad(value, (hidden, head), retain_graph=True)
    again = torch.autograd.grad(value, (hidden, head))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


class Largest(TorchDispatchMode):
    """Notes the most elements that any tensor made inside has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            self.elements = max(self.elements, each.numel() if isinstance(each, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_logits_are_never_there_at_once(draw, monkeypatch, dtype):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1000)
    hidden, head = (x.to(dtype).requires_grad_() for x in draw((50, 4), (101, 4)))
    with Largest() as seen:
        chunked_loss(hidden, head, targets_of(50, 101), label_smoothing=0.1, z_loss=0.1, softcap=3.0).backward()
    assert seen.elements <= 1000


def test_bf16_gradients_of_a_large_head_are_added_in_fp32_part_by_part(draw, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 40)
    monkeypatch.setattr(module, "_PRODUCT_ROWS", 4)
    hidden, head = (x.bfloat16() for x in draw((200, 6), (11, 6)))
    _, *found = outcome(chunked_loss, hidden, head, targets_of(200, 11), {})
    _, *expected = outcome(chunked_loss_reference, hidden.float(), head.float(), targets_of(200, 11), {})
    for one, other in zip(found, expected, strict=True):
        assert float((one.float() - other).norm() / other.norm()) < 5e-3


def test_a_target_outside_the_vocabulary_is_never_taken_for_another(draw):
    hidden, head = draw((3, 6), (11, 6))
    for wrong in (11, -1):
        with pytest.raises((IndexError, RuntimeError)):
            chunked_loss(hidden, head, torch.tensor([1, wrong, 2]))


def test_z_loss_is_the_squared_logarithm_of_the_denominator(draw):
    logits = draw((2, 4, 7))[0]
    targets = torch.tensor([[1, 2, 9, 9], [3, 9, 0, 6]])
    each = gw.loss(logits, targets, ignore_index=9, z_loss=0.5, reduction="none")
    squares = logits.exp().sum(-1).log().square().flatten()
    counts = targets.flatten() != 9
    plain = gw.loss(logits, targets, ignore_index=9, reduction="none")
    torch.testing.assert_close(each, plain + 0.5 * squares * counts)
    assert gw.loss(logits, targets, ignore_index=9, z_loss=0.5).item() == pytest.approx(each.sum().item() / 5, rel=1e-6)
    summed = loss(logits, targets, ignore_index=9, z_loss=0.5, reduction="sum")
    assert summed.item() == pytest.approx(each.sum().item(), rel=1e-6)


def test_z_loss_pulls_the_denominator_to_one():
    logits = torch.full((1, 7), 3.0, requires_grad=True)
    gw.loss(logits, torch.tensor([2]), z_loss=1.0).backward()
    plain = torch.full((1, 7), 3.0, requires_grad=True)
    gw.loss(plain, torch.tensor([2])).backward()
    pull = 2 * (3 + math.log(7)) / 7
    torch.testing.assert_close(logits.grad - plain.grad, torch.full((1, 7), pull))
