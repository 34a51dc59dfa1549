"""From logits to the next token.

Shapes: B batch, V vocabulary.
"""

import torch
from torch import Tensor


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return one token (B,) for each row of ``logits`` (B, V); temperature 0 takes the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Rule out (B, V) all but the ``k`` likeliest tokens of each row."""
    least = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Rule out (B, V) all but the likeliest tokens that together reach probability ``p`` (Holtzman et al., 2019)."""
    ordered, order = logits.sort(descending=True)
    probs = ordered.softmax(-1)
    beyond = probs.cumsum(-1) - probs >= p  # the first token is always kept
    return logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
