"""Linear attention: a recurrent state instead of a growing cache, computed in chunks.

With positive features f, the output of a query is  (f(q) . sum f(k) v^T) / (f(q) . sum f(k))  over the
keys it sees (Katharopoulos et al., 2020, https://arxiv.org/abs/2006.16236). The sums are carried from
chunk to chunk, so time grows with T and the state has a fixed size. With rotary positions the features
of the numerator are rotated and those of the denominator are not, which keeps it positive (Su et al.,
2021, equation 19, https://arxiv.org/abs/2104.09864).

Shapes: B batch, H heads, T positions, N chunks of C positions, d head width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.sequence import Sequence

CHUNK = 64
TINY = 1e-6
"""Added to the denominator: a query that sees no key (padding) gives 0, not 0 / 0."""

FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda x: F.elu(x) + 1,
    "relu": lambda x: F.relu(x) + 0.1,  # much less, and denominators of sparse features come close to 0
}


class Memory(NamedTuple):
    """What a row remembers of its current document."""

    kv: Tensor
    """(B, H, d, d): sum over keys of f(k) v^T."""
    k: Tensor
    """(B, H, d): sum over keys of the unrotated f(k)."""


class Features(NamedTuple):
    """Features of queries and keys, for the numerator and for the denominator, each (B, H, T, d)."""

    q: Tensor
    k: Tensor
    q_plain: Tensor
    k_plain: Tensor


def empty_memory(batch: int, heads: int, width: int, device: torch.device | str | None = None) -> Memory:
    """Return the memory of rows that have seen nothing, in fp32."""
    kv = torch.zeros(batch, heads, width, width, device=device)
    return Memory(kv, torch.zeros(batch, heads, width, device=device))


def linear_attention(
    features: Features, v: Tensor, seq: Sequence, memory: Memory | None = None, goes_on: Tensor | None = None
) -> tuple[Tensor, Memory]:
    """Mix values by feature products, chunk by chunk, in fp32.

    Args:
        features: of queries and keys.
        v: (B, H, T, d).
        seq: the batch.
        memory: what the rows remember of earlier calls, or None.
        goes_on: (B,) bool: whether the first real token here continues the document remembered.

    Returns:
        (B, H, T, d) in the dtype of ``v``, and the memory after the last token.
    """
    dtype, length = v.dtype, v.shape[2]
    real = seq.real[:, None, :, None]
    features = Features(*(x.float() for x in features))
    features = features._replace(k=features.k * real, k_plain=features.k_plain * real)
    v = v.float() * real
    if memory is None:
        memory = empty_memory(v.shape[0], v.shape[1], v.shape[3], v.device)
    chunk = CHUNK if length > CHUNK else length
    runs = _pad_runs(seq.runs(), chunk)  # (B, N, C)
    chunks = Features(*(_chunks(x, chunk) for x in features))  # each (B, H, N, C, d)
    v_chunks = _chunks(v, chunk)
    plain = seq.start is not None
    inside, inside_norm = _inside(chunks, v_chunks, runs, plain)
    before, memory = _carry(chunks, v_chunks, runs, memory, None if plain else goes_on)
    fresh = _continues(runs, goes_on, plain)  # (B, 1, N, C, 1): which queries see what was carried
    above = inside + (chunks.q @ before.kv) * fresh
    below = inside_norm + (chunks.q_plain * before.k[..., None, :]).sum(-1, keepdim=True) * fresh
    out = (above / (below + TINY)).flatten(2, 3)[:, :, :length]
    return out.to(dtype), memory


def linear_attention_reference(features: Features, v: Tensor, seq: Sequence) -> Tensor:
    """Do what `linear_attention` does with one dense (T, T) matrix of products."""
    seen = seq.visible()[:, None] & seq.real[:, None, None, :]  # (B, 1, T, T)
    weights = (features.q @ features.k.mT) * seen
    norm = ((features.q_plain @ features.k_plain.mT) * seen).sum(-1, keepdim=True)
    return (weights @ v) / (norm + TINY)


def _chunks(x: Tensor, chunk: int) -> Tensor:
    x = F.pad(x, (0, 0, 0, -x.shape[2] % chunk))
    return x.unflatten(2, (-1, chunk))  # (B, H, N, C, d)


def _pad_runs(runs: Tensor, chunk: int) -> Tensor:
    pad = -runs.shape[1] % chunk
    return torch.cat((runs, runs[:, -1:].expand(-1, pad)), 1).unflatten(1, (-1, chunk))


def _inside(f: Features, v: Tensor, runs: Tensor, plain: bool) -> tuple[Tensor, Tensor]:
    """Return what queries get from keys of their own chunk: (B, H, N, C, d) and its norm (B, H, N, C, 1)."""
    causal = torch.ones(runs.shape[-1], runs.shape[-1], dtype=torch.bool, device=runs.device).tril()
    if not plain:
        causal = (causal & (runs[..., :, None] == runs[..., None, :]))[:, None]  # (B, 1, N, C, C)
    weights = (f.q @ f.k.mT) * causal
    norm = weights if f.q is f.q_plain else (f.q_plain @ f.k_plain.mT) * causal
    return weights @ v, norm.sum(-1, keepdim=True)


def _carry(f: Features, v: Tensor, runs: Tensor, memory: Memory, goes_on: Tensor | None) -> tuple[Memory, Memory]:
    """Return what each chunk inherits, (B, H, N, d, d) and (B, H, N, d), and what remains after the last."""
    last = (runs == runs[..., -1:])[:, None, :, :, None]  # (B, 1, N, C, 1): keys of the document that goes on
    gain = Memory((f.k * last).mT @ v, (f.k_plain * last).sum(3))
    keep = _keeps(runs, goes_on)  # (B, N): whether a chunk ends in the document that it inherits
    inherited = []
    for n in range(runs.shape[1]):
        inherited.append(memory)
        kept = keep[:, n, None, None].float()
        memory = Memory(memory.kv * kept[..., None] + gain.kv[:, :, n], memory.k * kept + gain.k[:, :, n])
    return Memory(torch.stack([m.kv for m in inherited], 2), torch.stack([m.k for m in inherited], 2)), memory


def _first_goes_on(runs: Tensor, goes_on: Tensor | None) -> Tensor:
    return goes_on if goes_on is not None else torch.ones(len(runs), dtype=torch.bool, device=runs.device)


def _inherited_run(runs: Tensor) -> Tensor:
    """(B, N, 1): the document that each chunk inherits."""
    return torch.cat((runs[:, :1, :1], runs[:, :-1, -1:]), 1)


def _keeps(runs: Tensor, goes_on: Tensor | None) -> Tensor:
    keep = (runs[..., -1:] == _inherited_run(runs))[..., 0]
    keep[:, 0] &= _first_goes_on(runs, goes_on)
    return keep


def _continues(runs: Tensor, goes_on: Tensor | None, plain: bool) -> Tensor:
    same = runs == _inherited_run(runs)  # (B, N, C)
    if not plain:
        same[:, 0] &= _first_goes_on(runs, goes_on)[:, None]
    return same[:, None, :, :, None].float()
