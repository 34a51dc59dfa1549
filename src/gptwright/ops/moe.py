"""Routing of tokens to experts.

Shapes: N tokens, D d_model, E experts, k experts a token, M = N * k visits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.reference import beside

AFFINITIES: dict[str, Callable[[Tensor], Tensor]] = {"softmax": partial(F.softmax, dim=-1), "sigmoid": torch.sigmoid}
"""How scores (N, E) become affinities between 0 and 1: shared out among the experts, or each for itself."""

Run = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Runs experts on visits sorted by expert: visitors (M, D), the token (M,) of each, counts (E,) -> (M, D)."""


class Routes(NamedTuple):
    """Where tokens go."""

    weights: Tensor
    """(N, k) fp32: what the answer of each chosen expert counts."""
    chosen: Tensor
    """(N, k) int64: the experts."""
    affinities: Tensor
    """(N, E) fp32: how much each expert is preferred, without any bias."""


def route(
    scores: Tensor,
    top_k: int,
    *,
    router: str = "softmax",
    bias: Tensor | None = None,
    normalise: bool | None = None,
    scale: float = 1.0,
) -> Routes:
    """Choose the ``top_k`` experts of each token by ``scores`` (N, E) fp32.

    ``bias`` (E,) is added for choosing alone and never weighs an answer (Wang et al., 2024,
    https://arxiv.org/abs/2408.15664). With ``normalise`` a token's weights are divided by their sum; by default
    they are, but for a single expert: the constant 1 would teach the router nothing (Fedus et al., 2021, section 2.1).
    """
    affinities = AFFINITIES[router](scores)
    chosen = (affinities if bias is None else affinities + bias).topk(top_k, dim=-1).indices
    weights = affinities.gather(1, chosen)  # (N, k)
    if top_k > 1 if normalise is None else normalise:
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-20)
    return Routes(weights * scale, chosen, affinities)


def dispatch_reference(x: Tensor, weights: Tensor, chosen: Tensor, run: Run, n_experts: int) -> Tensor:
    """Do what `dispatch` does by running every expert on every token."""
    tokens = torch.arange(len(x), device=x.device).repeat(n_experts)
    counts = torch.full((n_experts,), len(x), device=x.device)
    outputs = run(x.repeat(n_experts, 1), tokens, counts).view(n_experts, *x.shape)  # (E, N, D)
    gates = torch.zeros(len(x), n_experts, dtype=x.dtype, device=x.device).scatter_(1, chosen, weights.to(x.dtype))
    return (outputs * gates.T[..., None]).sum(0)


@beside(dispatch_reference)
def dispatch(x: Tensor, weights: Tensor, chosen: Tensor, run: Run, n_experts: int) -> Tensor:
    """Return the weighted sum of each token's experts, every expert run once on all of its tokens.

    Visits are sorted by expert, so each expert reads one slice; no token is dropped.

    Args:
        x: (N, D).
        weights: (N, k).
        chosen: (N, k) int64, different experts for each token.
        run: runs the experts on sorted visits.
        n_experts: how many there are.
    """
    order = chosen.flatten().argsort(stable=True)  # (M,): visits by expert
    tokens = order // chosen.shape[1]
    places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device)).view_as(chosen)
    counts = torch.zeros(n_experts, dtype=torch.int64, device=x.device)
    counts = counts.index_add(0, chosen.flatten(), torch.ones_like(order))
    visited = run(_Send.apply(x, tokens, places), tokens, counts)  # (M, D)
    return _Gather.apply(visited, weights.to(x.dtype), tokens, places)


class _Send(torch.autograd.Function):
    """x (N, D) -> (M, D), a copy of its token for each visit.

    The gradient of a token is the sum over its own k visits, which `places` (N, k) finds: torch's backward of an
    index would add up M rows one by one instead.
    """

    @staticmethod
    def forward(x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        del places
        return x.index_select(0, tokens)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (places,) = ctx.saved_tensors
        return _sum_rows(grad, places), None, None


class _Gather(torch.autograd.Function):
    """visited (M, D), weights (N, k) -> (N, D), the weighted sum of each token's visits."""

    @staticmethod
    def forward(visited: Tensor, weights: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        del tokens
        return _sum_rows(visited, places, weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        visited, weights, tokens, places = ctx.saved_tensors
        by_visit = torch.empty_like(weights).flatten().scatter_(0, places.flatten(), weights.flatten())  # (M,)
        spread = _sum_rows(grad, tokens[:, None], by_visit[:, None])  # (M, D)
        return spread, _dot_rows(grad, visited, places), None, None


def _sum_rows(rows: Tensor, places: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return for each row of ``places`` (N, k) the (weighted) sum of those ``rows`` (M, D), in one pass."""
    return F.embedding_bag(places, rows.contiguous(), mode="sum", per_sample_weights=weights)


def _dot_rows(x: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Return the products (N, k) of each row of ``x`` (N, D) with those ``rows`` (M, D) that ``places`` (N, k) name.

    It is what torch's embedding bag gives its weights, and copies neither side.
    """
    flat = places.flatten()
    each = torch.arange(len(flat), device=x.device)
    bag, starts = each // places.shape[1], each[:: places.shape[1]]
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(x.contiguous(), rows, flat, starts, bag, 0)
    return dots.view_as(places)


def visits(chosen: Tensor, real: Tensor, n_experts: int) -> Tensor:
    """Return how many ``real`` (N,) tokens visit each expert, (E,) fp32."""
    counted = real[:, None].expand_as(chosen).flatten().float()
    return torch.zeros(n_experts, device=chosen.device).index_add_(0, chosen.flatten(), counted)


def load_balance(affinities: Tensor, chosen: Tensor, real: Tensor) -> Tensor:
    """Return E x sum over experts of (share of visits) x (mean share of affinity), 1 when balanced.

    Fedus et al., 2021, equation 4, https://arxiv.org/abs/2101.03961; affinities (N, E) that do not sum to 1 are divided
    by their sum, as in equation 18 of https://arxiv.org/abs/2412.19437. Only ``real`` (N,) tokens count.
    """
    n_experts, top_k = affinities.shape[1], chosen.shape[1]
    count = real.sum().clamp(min=1)
    shares = affinities / affinities.sum(-1, keepdim=True)
    mean_shares = (shares * real[:, None]).sum(0) / count
    return n_experts * (visits(chosen, real, n_experts) / (count * top_k) * mean_shares).sum()


def z_loss(scores: Tensor, real: Tensor) -> Tensor:
    """Return the mean over ``real`` (N,) tokens of logsumexp(scores)^2, which keeps ``scores`` (N, E) small.

    Zoph et al., 2022, equation 5, https://arxiv.org/abs/2202.08906.
    """
    return (scores.logsumexp(-1).square() * real).sum() / real.sum().clamp(min=1)


def rebalanced(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """Return ``bias`` (E,) after a step in which ``load`` (E,) tokens visited each expert.

    Experts above the mean load are made less likely and those below more (Wang et al., 2024, algorithm 1,
    https://arxiv.org/abs/2408.15664). There, each moves by ``rate`` whatever its error; here, by ``rate`` times the
    error relative to the mean, at most 1, so that near balance biases come to rest and do not step to and fro.
    Only differences choose, so the mean is kept at 0: it would drift otherwise.
    """
    error = (load.mean() - load) / load.mean()
    moved = bias + rate * error.clamp(-1, 1)
    return moved - moved.mean()
