"""Linear attention: a recurrent memory instead of a growing cache, computed in chunks.

With features f, the output of a query is  f(q) . sum f(k) v^T  over the keys it sees, divided where features are
positive by  f(q) . sum f(k)  (Katharopoulos et al., 2020, https://arxiv.org/abs/2006.16236). A decay multiplies both
sums at each token: a number for each head in retention (Sun et al., 2023, https://arxiv.org/abs/2307.08621), or one
that depends on the token (Yang et al., 2023, https://arxiv.org/abs/2312.06635; Dao and Gu, 2024,
https://arxiv.org/abs/2405.21060). The sums pass from chunk to chunk, so time grows with T and the memory has a fixed
size. With rotary positions the features of the numerator are rotated and those of the denominator are not, which keeps
it positive (Su et al., 2021, equation 19, https://arxiv.org/abs/2104.09864).

Shapes: B batch, H heads, T positions, N chunks of C positions, d feature width, e value width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.chunked_sums import chunked_sums, decays_in_spans
from gptwright.ops.chunks import begins, joined, scaled
from gptwright.ops.reference import beside
from gptwright.ops.sequence import Sequence

TINY = 1e-6
"""Added to the denominator: a query that sees no key (padding) gives 0, not 0 / 0."""

FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda x: _Elu.apply(x),  # pyright: ignore[reportReturnType]
    "relu": lambda x: x.relu() + 0.1,  # much less, and denominators of sparse features come close to 0
    "identity": lambda x: x,
}
POSITIVE = ("elu", "relu")
"""Features whose sums can be divided by."""


class _Elu(torch.autograd.Function):
    """elu(x) + 1, of which the result alone is kept: below 1 it is its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clamp(max=0).exp_() + x.relu()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * ctx.saved_tensors[0].clamp(max=1)


class Memory(NamedTuple):
    """What a row remembers of its current document, in fp32."""

    kv: Tensor
    """(B, H, d, e): decayed sum over keys of f(k) v^T."""
    k: Tensor
    """(B, H, d): decayed sum over keys of the unrotated f(k); (B, H, 0) where nothing is divided by it."""


class Features(NamedTuple):
    """Features of queries and keys, each (B, H, T, d)."""

    q: Tensor
    k: Tensor
    q_plain: Tensor | None = None
    """Those of the denominator, where they differ."""
    k_plain: Tensor | None = None

    def below(self) -> tuple[Tensor, Tensor]:
        """Return the features of the denominator."""
        return self.q if self.q_plain is None else self.q_plain, self.k if self.k_plain is None else self.k_plain


def empty_memory(
    batch: int, heads: int, width: int, *, values: int | None = None, normalise: bool = True, device: object = None
) -> Memory:
    """Return the memory of rows that have seen nothing; ``values`` is the width of a value, by default ``width``."""
    kv = torch.zeros(batch, heads, width, values or width, device=device)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return Memory(kv, kv.new_zeros(batch, heads, width if normalise else 0))


def linear_attention_reference(
    features: Features,
    v: Tensor,
    seq: Sequence,
    *,
    log_decay: Tensor | None = None,
    normalise: bool = True,
    memory: Memory | None = None,
) -> tuple[Tensor, Memory]:
    """Do what `linear_attention` does, token by token."""
    kv, k_sum = memory or _nothing(features, v, normalise)
    q_below, k_below = (x.float() for x in features.below())
    q, k, real = features.q.float(), features.k.float(), seq.real[:, None, :, None]
    kept = (~begins(seq))[:, None].float()  # (B, 1, T)
    if log_decay is not None:
        kept = kept * torch.where(seq.real[:, None], log_decay.float(), 0).exp()
    outs = []
    for t in range(len(seq)):
        kept_t, real_t = kept[:, :, t, None], real[:, :, t]
        kv = kv * kept_t[..., None] + (k[:, :, t] * real_t)[..., :, None] * v[:, :, t].float()[..., None, :]
        out = (q[:, :, t, :, None] * kv).sum(-2)  # (B, H, e)
        if normalise:
            k_sum = k_sum * kept_t + k_below[:, :, t] * real_t
            out = out / ((q_below[:, :, t] * k_sum).sum(-1, keepdim=True) + TINY)
        outs.append(out)
    return torch.stack(outs, 2).to(v.dtype), Memory(kv, k_sum)


@beside(linear_attention_reference)
def linear_attention(
    features: Features,
    v: Tensor,
    seq: Sequence,
    *,
    log_decay: Tensor | None = None,
    normalise: bool = True,
    memory: Memory | None = None,
) -> tuple[Tensor, Memory]:
    """Mix values by decayed feature products, chunk by chunk, in fp32.

    Args:
        features: of queries and keys.
        v: (B, H, T, e).
        seq: the batch; padding neither adds nor decays.
        log_decay: (B or 1, H, T), at most 0: by what each token first multiplies the sums, or None for no decay.
        normalise: whether to divide by the sums of features, which must then be positive.
        memory: what the rows remember of earlier calls, or None. A token at position 0 leaves it behind.

    Returns:
        (B, H, T, e) in the dtype of ``v``, and the memory after the last token.
    """
    if memory is None or seq.start == 0:
        memory = _nothing(features, v, normalise)
    if len(seq) == 1:
        return _step(features, v, seq, log_decay, normalise, memory)
    decay = decays_in_spans(log_decay, seq)
    q, k, q_below, k_below = features
    if not normalise:
        outs, kv = chunked_sums(q, k, v, seq, decay, memory.kv)
        return joined(outs, len(seq)).to(v.dtype), Memory(kv, memory.k)
    if q_below is None or k_below is None:  # the sum of features is that of values which are 1
        held = torch.cat((memory.kv, memory.k[..., None]), -1)
        outs, held = chunked_sums(q, k, F.pad(v, (0, 1), value=1), seq, decay, held)
        outs = [_divided(*out.split((v.shape[-1], 1), -1), v.dtype) for out in outs]
        return joined(outs, len(seq)), Memory(held[..., :-1].clone(), held[..., -1].clone())
    above, kv = chunked_sums(q, k, v, seq, decay, memory.kv)
    below, k_sum = chunked_sums(q_below, k_below, torch.ones_like(v[..., :1]), seq, decay, memory.k[..., None])
    outs = [_divided(*pair, v.dtype) for pair in zip(above, below, strict=True)]
    return joined(outs, len(seq)), Memory(kv, k_sum[..., 0])


def _nothing(features: Features, v: Tensor, normalise: bool) -> Memory:
    batch, heads, _, width = features.k.shape
    return empty_memory(batch, heads, width, values=v.shape[-1], normalise=normalise, device=v.device)


def _divided(above: Tensor, below: Tensor, dtype: torch.dtype) -> Tensor:
    return (above / (below + TINY)).to(dtype)


def _step(
    f: Features, v: Tensor, seq: Sequence, log_decay: Tensor | None, normalise: bool, memory: Memory
) -> tuple[Tensor, Memory]:
    """Take in a single token: all there is to decoding."""
    kept = None if log_decay is None else log_decay.float().exp()  # (B, H, 1)
    q, k, (q_below, k_below) = f.q.float(), f.k.float(), f.below()
    if seq.start is None and not seq.ragged:
        real, goes_on = seq.real[:, None], ~begins(seq)[:, None]  # (B, 1, 1)
        kept = goes_on if kept is None else torch.where(real, kept, 1) * goes_on
        k, k_below = k * real[..., None], k_below * real[..., None]
    kv = scaled(memory.kv, None if kept is None else kept[..., None]) + k.mT @ v.float()
    out = q @ kv  # (B, H, 1, e)
    if not normalise:
        return out.to(v.dtype), Memory(kv, memory.k)
    k_sum = scaled(memory.k, kept) + k_below[:, :, 0].float()
    norm = (q_below[:, :, 0].float() * k_sum).sum(-1)[..., None, None]
    return (out / (norm + TINY)).to(v.dtype), Memory(kv, k_sum)
