"""Chance that belongs to one place of one text, and the token that it picks.

No generator is shared or kept: the number for the n-th new token of the s-th sample under a seed is a hash of the
three. So a text is the same alone, in any batch, in any order, and with its tokens guessed ahead.
"""

import hashlib

import numpy as np

BLOCK = 256
"""Weights that are added up together first, so that only one block is looked at number by number."""


def uniform(seed: int, sample: int, index: int) -> float:
    """Return a number in [0, 1), a multiple of 2**-53, that depends on these three alone (BLAKE2b of them).

    Args:
        seed: any whole number, negative and large ones as well.
        sample: number of the text among those of one prompt.
        index: number of the new token in its text.
    """
    digest = hashlib.blake2b(f"{seed:x},{sample:x},{index:x}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def draw(scores: np.ndarray, chance: float) -> int:
    """Return the place in ``scores`` (m,) float32 at which the distribution function passes ``chance``.

    A place is drawn with probability proportional to ``exp(score)``; sums are float64, in order of places.
    """
    weights = np.exp(scores - scores.max())
    start, block = 0, weights
    if len(weights) > 2 * BLOCK:
        sums = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK), dtype=np.float64)
        bounds = sums.cumsum()
        place = _passes(bounds, sums, chance * bounds[-1])
        start, block = place * BLOCK, weights[place * BLOCK : (place + 1) * BLOCK]
        goal = chance * bounds[-1] - (bounds[place - 1] if place else 0)
        return start + _passes(block.cumsum(dtype=np.float64), block, goal)
    bounds = block.cumsum(dtype=np.float64)
    return _passes(bounds, block, chance * bounds[-1])


def _passes(bounds: np.ndarray, weights: np.ndarray, goal: float) -> int:
    """Return the first place whose bound exceeds ``goal``; where rounding left none, the last with any weight."""
    place = int(np.searchsorted(bounds, goal, side="right"))
    return place if place < len(bounds) else int(np.flatnonzero(weights)[-1])
