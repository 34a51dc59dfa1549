"""The gated delta rule: a memory that forgets, and corrects what it holds for a key before it adds to it.

    S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T,    o_t = S_t q_t

(Yang et al., 2024, https://arxiv.org/abs/2412.06464), for keys of length 1. In a chunk, all corrections are the
solution of one unit lower triangular system (the WY form of Yang et al., 2024, https://arxiv.org/abs/2406.06484):
token i writes  u_i = beta_i (v_i - S_{i-1} k_i),  in which every earlier token of its chunk takes part.

Shapes: B batch, H heads, T positions, N chunks of C positions, d key width, e value width. The memory is kept as S^T.
"""

import torch
from torch import Tensor

from gptwright.ops.chunks import Decays, begins, decays, exact, in_spans, joined, scaled, spans
from gptwright.ops.reference import beside
from gptwright.ops.sequence import Sequence


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Return ``x`` (..., d) in fp32, divided by its length: the root of its sum of squares plus ``eps``."""
    x = x.float()
    return x * (x.square().sum(-1, keepdim=True) + eps).rsqrt()


def gated_delta_rule_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    seq: Sequence,
    memory: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Do what `gated_delta_rule` does, token by token."""
    held = _nothing(k, v) if memory is None else memory
    q, k, values, beta, log_decay = (x.float() for x in (q, k, v, beta, log_decay))
    outs = []
    for t in range(len(seq)):
        real, first = (x[:, t, None, None, None] for x in (seq.real, begins(seq)))
        before = torch.where(first, 0, held) * log_decay[:, :, t, None, None].exp()
        wrong = values[:, :, t] - (k[:, :, t, :, None] * before).sum(-2)  # (B, H, e)
        after = before + k[:, :, t, :, None] * (beta[:, :, t, None] * wrong)[..., None, :]
        held = torch.where(real, after, held)
        outs.append((q[:, :, t, :, None] * held).sum(-2))
    return torch.stack(outs, 2).to(v.dtype), held


@beside(gated_delta_rule_reference)
def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    seq: Sequence,
    memory: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Read a memory that each token decays, corrects and adds to, chunk by chunk, in fp32.

    Args:
        q: (B, H, T, d).
        k: (B, H, T, d), of length 1 (see `unit`).
        v: (B, H, T, e).
        beta: (B, H, T), from 0 (the memory stays) over 1 (what it holds for the key is replaced) to 2 (turned over).
        log_decay: (B, H, T), at most 0: logarithm of what a token leaves of the memory.
        seq: the batch; padding changes nothing.
        memory: (B, H, d, e) fp32, what the rows remember, or None. A token at position 0 leaves it behind.

    Returns:
        (B, H, T, e) in the dtype of ``v``, and the memory after the last token.
    """
    if memory is None or seq.start == 0:
        memory = _nothing(k, v)
    if len(seq) == 1:
        return _step(q, k, v, beta, log_decay, seq, memory)
    pieces = (in_spans(x, seq) for x in (q, k, v, beta[..., None], log_decay))
    outs = []
    for span, queries, keys, values, rates, logs in zip(spans(seq), *pieces, strict=True):
        keys = scaled(exact(keys), None if span.real is None else span.real[..., None])
        parts = (exact(queries), keys, exact(values), exact(rates))
        out, memory = _mixed(*parts, decays(logs.float(), span), memory)
        outs.append(out.to(v.dtype))
    return joined(outs, len(seq)), memory


def _nothing(k: Tensor, v: Tensor) -> Tensor:
    return torch.zeros(*k.shape[:2], k.shape[3], v.shape[3], device=k.device)


def _mixed(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Decays, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs (B, H, N, C, e) of a span, and the memory after it."""
    k_beta = k * beta
    system = (k_beta @ k.mT) * decay.within  # (B, H, N, C, C); its diagonal is not read, it counts as 1
    wanted = torch.cat((v * beta, scaled(k_beta, decay.since)), -1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    values, reading = solved.split((v.shape[-1], k.shape[-1]), -1)  # (B, H, N, C, e) and (B, H, N, C, d)
    written, inherited, memory = _carried(values, reading, scaled(k, decay.until).mT, decay.across, memory)
    return scaled(q, decay.since) @ inherited + ((q @ k.mT) * decay.within) @ written, memory


def _carried(
    values: Tensor, reading: Tensor, keys: Tensor, across: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Go from chunk to chunk; return what each writes (B, H, N, C, e) and inherits (B, H, N, d, e), and the end."""
    kept = across.diagonal(-1, -2, -1)[..., None, None]  # (B, H, N, 1, 1): of the memory, through each chunk
    written, inherited = [], []
    for own, read, key, left in zip(values.unbind(2), reading.unbind(2), keys.unbind(2), kept.unbind(2), strict=True):
        inherited.append(memory)
        written.append(own - read @ memory)
        memory = memory * left + key @ written[-1]
    return torch.stack(written, 2), torch.stack(inherited, 2), memory


def _step(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, seq: Sequence, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Take in a single token: all there is to decoding."""
    q, k, values = q.float(), k.float(), v.float()
    kept = log_decay.float().exp()[..., None]  # (B, H, 1, 1)
    if seq.start is None and not seq.ragged:
        real, goes_on = (x[:, None, :, None] for x in (seq.real, ~begins(seq)))  # (B, 1, 1, 1)
        kept, k = torch.where(real, kept, 1) * goes_on, k * real
    memory = memory * kept
    memory = memory + k.mT @ (beta.float()[..., None] * (values - k @ memory))
    return (q @ memory).to(v.dtype), memory
