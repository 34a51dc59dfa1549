"""What passes within and between chunks, against plain sums over tokens in double precision."""

import pytest
import torch

from gptwright.ops import chunks
from gptwright.ops.sequence import Sequence

DOCUMENTS = torch.tensor([[3] * 40 + [1] * 73 + [7] + [2] * 31 + [0] * 5, [0] * 9 + [1] * 60 + [0, 1] * 40 + [1]])


def drawn(shape: tuple[int, ...], strength: float) -> torch.Tensor:
    """Return log decays, most of them weak and a few so strong that they leave nothing."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return -torch.where(noise > 1, strength * noise, 0.01 * noise.abs())


def left(log_decay: torch.Tensor, seq: Sequence) -> torch.Tensor:
    """Return (B, H, T, T) in fp64: what is left of each token at each other of its document."""
    total = (log_decay.double() * seq.real[:, None]).cumsum(-1)
    gaps = total[..., :, None] - total[..., None, :]
    runs = chunks.begins(seq).long().cumsum(1)
    meets = (runs[:, :, None] == runs[:, None, :]).tril()[:, None]
    return gaps.masked_fill(~meets, -torch.inf).exp()


@pytest.mark.parametrize("strength", [1.0, 300.0])
@pytest.mark.parametrize("packed", [False, True])
def test_decays_are_exact_however_strong_those_before(strength, packed):
    seq = Sequence.packed(DOCUMENTS) if packed else Sequence.plain(2, 150)
    log_decay = drawn((2, 3, 150), strength)
    (span,) = chunks.spans(seq)
    (part,) = chunks.in_spans(log_decay, seq)
    found = chunks.decays(part, span)
    expected = left(log_decay.clamp(min=-1e4), seq)
    for n in range(3):
        at, size = 64 * n, min(64, 150 - 64 * n)
        own = expected[:, :, at : at + size, at : at + size]
        torch.testing.assert_close(found.within[:, :, n, :size, :size].double(), own, rtol=1e-6, atol=1e-12)
        if n:  # from the last token of the chunk before; padding there counts with its document
            held = expected[:, :, at : at + size, at - 1]
            torch.testing.assert_close(found.since[:, :, n, :size, 0].double(), held, rtol=1e-6, atol=1e-12)
    ends = expected[:, :, 127, 64:128]
    torch.testing.assert_close(found.until[:, :, 1, :, 0].double(), ends, rtol=1e-6, atol=1e-12)
    across = torch.stack([expected[:, :, 127, 63], expected[:, :, 149, 127], expected[:, :, 149, 63]])
    pairs = torch.stack([found.across[:, :, i, j] for i, j in ((2, 1), (3, 2), (3, 1))])
    torch.testing.assert_close(pairs.double(), across, rtol=1e-6, atol=1e-12)


def test_one_cumulated_sum_would_not_do():
    """Why logarithms are split: the same decays from fp32 sums lose more than a hundredth of a percent."""
    log_decay = drawn((1, 1, 64), 120.0)
    total = log_decay.clamp(min=chunks.FLOOR).cumsum(-1)
    naive = (total[..., :, None] - total[..., None, :]).tril().exp().tril()
    exact = left(log_decay, Sequence.plain(1, 64))
    assert float(((naive - exact) / exact.clamp(min=1e-3)).abs().max()) > 1e-5


def test_the_gradient_of_a_log_decay_is_that_of_the_plain_formula():
    log_decay = drawn((2, 3, 150), 2.0).requires_grad_()
    seq = Sequence.plain(2, 150)
    (span,), (part,) = chunks.spans(seq), chunks.in_spans(log_decay, seq)
    found = chunks.decays(part, span)
    weights = torch.linspace(-1, 1, 64 * 64).view(64, 64)
    (found.within[:, :, 1] * weights + found.until[:, :, 1] + found.since[:, :, 1]).sum().backward()
    grad, log_decay.grad = log_decay.grad, None
    expected = left(log_decay, seq)
    own = expected[:, :, 64:128, 64:128] * weights
    (own + expected[:, :, 127, 64:128, None] + expected[:, :, 64:128, 63, None]).sum().backward()
    torch.testing.assert_close(grad, log_decay.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 511, 512, 513, 1100])
@pytest.mark.parametrize("packed", [False, True])
def test_every_token_lies_in_one_chunk(length, packed):
    seq = Sequence.plain(2, length)
    if packed:
        seq = Sequence.packed((torch.arange(length).expand(2, length) // 50) + 1)
    x = torch.randn(2, 3, length, 4)
    pieces = chunks.in_spans(x, seq)
    assert torch.equal(chunks.joined(pieces, length), x)
    assert sum(piece.shape[2] * piece.shape[3] for piece in pieces) - length < 64
    for piece, span in zip(pieces, chunks.spans(seq), strict=True):
        assert span.passes.shape[-1] == piece.shape[2] + 1
        if packed:
            assert span.real.shape == (2, 1, *piece.shape[2:4])


def test_nothing_is_multiplied_where_nothing_decays_or_ends():
    (span,) = chunks.spans(Sequence.plain(2, 100))
    found = chunks.decays(None, span)
    assert found.since is None
    assert found.until is None
    assert found.within.dtype == torch.bool
