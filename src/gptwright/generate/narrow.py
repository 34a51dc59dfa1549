"""Which tokens top-k, top-p, min-p and typical leave: as in `gptwright.ops.sampling`, without sorting a vocabulary.

Shapes: m tokens that are left. Scores are float32 logits less the greatest among them; ids are ascending.
"""

from collections.abc import Iterator
from functools import partial
from typing import Protocol

import numpy as np

from gptwright.generate.sampling import Sampling

SHORTLIST = 1024
"""Tokens that are sorted at first; all are where these are not enough."""


class _Filter(Protocol):
    def __call__(self, scores: np.ndarray) -> np.ndarray: ...


def narrow(scores: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the scores (m,) that the settings leave and their places, ascending; None where all are left."""
    places = None
    for keep in _filters(sampling):
        stay = keep(scores)
        scores = scores[stay]
        places = stay if places is None else places[stay]
    return scores, places


def _filters(sampling: Sampling) -> Iterator[_Filter]:
    if sampling.top_k is not None:
        yield partial(top_k, k=sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        yield partial(top_p, p=sampling.top_p)
    if sampling.min_p:
        yield partial(min_p, p=sampling.min_p)
    if sampling.typical_p is not None and sampling.typical_p < 1:
        yield partial(typical, p=sampling.typical_p)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the ``k`` likeliest tokens; of equally likely ones the first."""
    return np.sort(likeliest(scores, k))


def top_p(scores: np.ndarray, p: float) -> np.ndarray:
    """Return the places of the likeliest tokens that together reach probability ``p``."""
    return _until(scores, np.exp(scores), p)


def min_p(scores: np.ndarray, p: float) -> np.ndarray:
    """Return the places of tokens at least ``p`` times as likely as the likeliest."""
    return np.flatnonzero(np.exp(scores) >= p)


def typical(scores: np.ndarray, p: float) -> np.ndarray:
    """Return the places of the tokens nearest to the mean surprise that together reach probability ``p``."""
    weights = np.exp(scores)
    total = weights.sum(dtype=np.float64)
    surprise = np.log(total) - scores
    real = weights > 0
    entropy = (weights[real] * surprise[real]).sum(dtype=np.float64) / total
    return _until(-np.abs(surprise - entropy), weights, p)


def likeliest(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places (k,) of the greatest scores, greatest first; of equal ones the first comes first."""
    k = min(k, len(scores))
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= least)
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")][:k]


def _until(worth: np.ndarray, weights: np.ndarray, p: float) -> np.ndarray:
    """Return the places of the worthiest tokens whose ``weights`` reach the part ``p`` of all."""
    goal = p * weights.sum(dtype=np.float64)
    for count in (SHORTLIST, len(worth)):
        order = likeliest(worth, count)
        reached = weights[order].cumsum(dtype=np.float64)
        if reached[-1] >= goal:
            break
    return np.sort(order[: np.searchsorted(reached, goal) + 1])
