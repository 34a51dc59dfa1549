"""From logits to the next token: what settings do to the scores of a whole vocabulary, written to be read.

Shapes: B batch, V vocabulary; (..., V) means any number of rows, or one row alone. Penalties and bias come first, then
the temperature, then top-k, top-p, min-p and typical, each among what the one before it left. `generate.narrow` has
the same filters fast.
"""

from collections.abc import Mapping

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
    """Rule out (..., V) all but the ``k`` likeliest tokens; of equally likely ones the first stay."""
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    above, level = logits > least, logits == least
    room = k - above.sum(-1, keepdim=True)
    return logits.masked_fill(~(above | (level & (level.cumsum(-1) <= room))), -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Rule out (..., V) all but the likeliest tokens that together reach probability ``p`` (Holtzman et al., 2019).

    The token that reaches it stays, so one always does; of equally likely tokens the first come first.
    """
    ordered, order = logits.sort(descending=True, stable=True)
    return _keep_until(logits, order, ordered.softmax(-1), p)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Rule out (..., V) tokens less likely than ``p`` times the likeliest (Nguyen et al., 2024)."""
    best = logits.max(-1, keepdim=True).values
    return logits.masked_fill((logits - best).exp() < p, -torch.inf)


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """Rule out (..., V) all but the most typical tokens that together reach probability ``p`` (Meister et al., 2022).

    A token is typical when its surprise, ``-log(probability)``, is near the mean surprise, which is the entropy.
    """
    surprise = -logits.log_softmax(-1)
    probs = logits.softmax(-1)
    entropy = (probs * surprise).nansum(-1, keepdim=True)  # 0 times infinity, for what is ruled out, counts nothing
    order = (surprise - entropy).abs().sort(stable=True).indices
    return _keep_until(logits, order, probs.gather(-1, order), p)


def _keep_until(logits: Tensor, order: Tensor, probs: Tensor, p: float) -> Tensor:
    """Rule out what comes in ``order`` after ``probs``, in that order, have added up to ``p``."""
    beyond = probs.cumsum(-1) - probs >= p  # what came before has reached it
    return logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens ``seen`` (..., V) bool less likely: their logits divided by ``penalty``, or times it where negative.

    From Keskar et al., 2019 (CTRL), as Hugging Face has it; below 1 it makes them likelier.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def penalise_counts(logits: Tensor, counts: Tensor, *, presence: float, frequency: float) -> Tensor:
    """Lower the logit of each token by ``presence`` if it was written, and ``frequency`` a time (as OpenAI's API).

    Args:
        logits: (..., V).
        counts: (..., V) how often each was written.
        presence: in logits; negative ones favour what was written.
        frequency: in logits a time.
    """
    return logits - presence * (counts > 0) - frequency * counts


def add_bias(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Add to the logits (..., V) of some tokens; minus infinity rules one out."""
    logits = logits.clone()
    ids = torch.tensor(list(bias), dtype=torch.long, device=logits.device)
    logits[..., ids] += torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
    return logits
