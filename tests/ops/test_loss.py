import math

import pytest
import torch
import torch.nn.functional as F

import gptwright as gw
from gptwright.ops import loss as module
from gptwright.ops.loss import IGNORE, chunked_loss


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
