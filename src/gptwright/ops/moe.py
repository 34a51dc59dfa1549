"""Routing of tokens to experts.

Shapes: N tokens, D d_model, E experts, k experts a token.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gptwright.ops.reference import beside


def route(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose experts: ``scores`` (N, E) fp32 -> weights (N, k), experts (N, k) and probabilities (N, E).

    Weights sum to 1, but a single expert keeps its probability: the constant 1 would teach the router nothing
    (Fedus et al., 2021, section 2.1).
    """
    probs = scores.softmax(-1)
    weights, chosen = probs.topk(top_k, dim=-1)
    if top_k > 1:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, chosen, probs


def dispatch_reference(x: Tensor, weights: Tensor, chosen: Tensor, experts: list[Callable[[Tensor], Tensor]]) -> Tensor:
    """Do what `dispatch` does by running every expert on every token."""
    outputs = torch.stack([run(x) for run in experts], 1)  # (N, E, D)
    gates = torch.zeros(len(x), len(experts), dtype=x.dtype).scatter_(1, chosen, weights.to(x.dtype))
    return (outputs * gates[..., None]).sum(1)


@beside(dispatch_reference)
def dispatch(x: Tensor, weights: Tensor, chosen: Tensor, experts: list[Callable[[Tensor], Tensor]]) -> Tensor:
    """Return the weighted sum of each token's experts, every expert run once on all of its tokens.

    Tokens are sorted by expert, so each expert reads one slice; none is dropped.

    Args:
        x: (N, D).
        weights: (N, k).
        chosen: (N, k) int64.
        experts: E functions (n, D) -> (n, D).
    """
    top_k = chosen.shape[1]
    order = chosen.flatten().argsort(stable=True)  # (N*k,): pairs (token, choice) by expert
    tokens = order // top_k
    counts = chosen.flatten().bincount(minlength=len(experts)).tolist()
    slices = x[tokens].split(counts)
    visited = torch.cat([run(part) for run, part in zip(experts, slices, strict=True) if len(part)])
    weighted = visited * weights.flatten()[order, None].to(x.dtype)
    return torch.zeros_like(x).index_add_(0, tokens, weighted)


def load_balance(probs: Tensor, chosen: Tensor, real: Tensor) -> Tensor:
    """Return E x sum over experts of (share of tokens) x (mean probability), 1 when balanced.

    Fedus et al., 2021, equation 4, https://arxiv.org/abs/2101.03961. Only ``real`` (N,) tokens count.
    """
    n_experts, top_k = probs.shape[1], chosen.shape[1]
    count = real.sum().clamp(min=1)
    visits = torch.zeros(n_experts, device=probs.device).index_add_(
        0, chosen.flatten(), real.repeat_interleave(top_k).float()
    )
    mean_probs = (probs * real[:, None]).sum(0) / count
    return n_experts * (visits / (count * top_k) * mean_probs).sum()
