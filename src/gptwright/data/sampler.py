"""Which rows a step sees: a pure function of (seed, number of the row), so there is nothing to save or to resume.

Each epoch visits its rows in an order of its own, drawn by a small cipher instead of a shuffled list: a
Feistel network (Luby & Rackoff 1988) permutes a power of four, and walking its cycle until the result is a
row (Black & Rogaway 2002) permutes any number. It needs no memory, and any part of any epoch is known at
once.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from math import lcm

import numpy as np

_ROUNDS = 8
_LONGEST_PERIOD = 1 << 16
_SIMPLE, _NEAR = 1000, Fraction(1, 10**9)  # a weight this near to a fraction this simple is meant to be it


class Order:
    """The order in which ``n_rows`` rows are visited, another in each epoch."""

    def __init__(self, n_rows: int, seed: int) -> None:
        self.n_rows = n_rows
        self._seed = np.uint64(seed % (1 << 64))
        self._half_bits = np.uint64(max(1, ((n_rows - 1).bit_length() + 1) // 2))

    def draw(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which rows have these numbers, counted from 0 over all epochs, and a random key of each one's epoch.

        Both (n,), int64 and uint64. A rank or micro-batch takes its slice: the rows are the same however sliced.
        """
        epoch, place = np.divmod(np.asarray(numbers, dtype=np.int64), self.n_rows)
        key = mix(epoch.astype(np.uint64) ^ mix(np.full(len(epoch), self._seed)))
        return self._permute(place.astype(np.uint64), key).astype(np.int64), key

    def _permute(self, place: np.ndarray, key: np.ndarray) -> np.ndarray:
        out = self._feistel(place, key)
        while (outside := out >= self.n_rows).any():
            out[outside] = self._feistel(out[outside], key[outside])
        return out

    def _feistel(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        half = self._half_bits
        mask = (np.uint64(1) << half) - np.uint64(1)
        left, right = value >> half, value & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (mix(key + right * np.uint64(_ROUNDS) + np.uint64(number)) & mask)
        return (left << half) | right


def mix(value: np.ndarray) -> np.ndarray:
    """Scatter 64-bit numbers (SplitMix64: Steele, Lea & Flood 2014); arrays, whose overflow is silent."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class Mixer:
    """Deals the numbers 0, 1, 2 ... out to parts by weight: a pattern, repeated, in which each part is spread evenly.

    After any whole number of periods the shares are the weights, exactly; in between they are off by about one row.
    The period is the common denominator of the weights as they are written (10 for 0.7 and 0.3), or as the fractions
    that they stand for (3 for 0.3333333333); where that would be longer than 65536, weights are rounded to that many
    parts.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.counts = _counts(weights)
        self.period = sum(self.counts)
        places = np.concatenate([(np.arange(count) + 0.5) / count for count in self.counts])
        parts = np.repeat(np.arange(len(self.counts)), self.counts)
        ranks = np.concatenate([np.arange(count) for count in self.counts])
        order = np.lexsort((parts, places))
        self._parts, self._ranks = parts[order], ranks[order]

    def deal(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the part of each number, and how many smaller numbers fell to that part; both int64 (n,)."""
        period, place = np.divmod(np.asarray(numbers, dtype=np.int64), self.period)
        parts = self._parts[place]
        return parts, period * np.array(self.counts)[parts] + self._ranks[place]

    def numbers_until(self, part: int, rows: int) -> int:
        """Return how many numbers must be dealt until ``part`` has had ``rows`` of them."""
        period, rank = divmod(rows - 1, self.counts[part])
        place = np.flatnonzero((self._parts == part) & (self._ranks == rank))[0]
        return period * self.period + int(place) + 1


def _counts(weights: Sequence[float]) -> list[int]:
    """Return how many rows of a period each part gets, one at least."""
    written = [Fraction(str(weight)) for weight in weights]
    simple = [weight.limit_denominator(_SIMPLE) for weight in written]
    near = all(abs(a - b) < _NEAR for a, b in zip(simple, written, strict=True))
    for shares in (written, *([simple] if near and sum(simple) == 1 else [])):  # 0.3333333333 may mean a third
        exact = [share / sum(shares) for share in shares]
        period = reduce(lcm, (share.denominator for share in exact))
        if period <= _LONGEST_PERIOD:
            return [int(share * period) for share in exact]
    return [max(1, round(weight / sum(written) * _LONGEST_PERIOD)) for weight in written]
