"""Which tokens a step sees: a pure function of (seed, step), so there is nothing to save or to resume.

Each epoch visits its windows in an order of its own, drawn by a small cipher instead of a shuffled list: a
Feistel network (Luby & Rackoff 1988) permutes a power of four, and walking its cycle until the result is a
window (Black & Rogaway 2002) permutes any number. It needs no memory, and any part of any epoch is known at
once.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from gptwright.errors import DataError

IGNORE = -100
"""The target that no loss counts."""

_ROUNDS = 8


class Stream(Protocol):
    """Token ids that can be read anywhere, such as a `TokenStream`."""

    def __len__(self) -> int: ...

    def read(self, start: int, n: int) -> np.ndarray:
        """Return ids ``start`` to ``start + n``, int64 (n,)."""
        ...


class Sampler:
    """Draws window starts from a stream of ``n_tokens`` tokens.

    An epoch cuts the stream into windows of ``context`` tokens (and the next one, as target) from an offset of
    its own, and visits each exactly once.

    Raises:
        DataError: the stream is shorter than one window and its target.
    """

    def __init__(self, n_tokens: int, context: int, seed: int) -> None:
        check_length(n_tokens, context, "train")
        self.context = context
        whole = (n_tokens - 1) // context
        self.n_windows = max(1, whole - 1)  # one window less than fit leaves room for the offset
        self._room = n_tokens - self.n_windows * context  # offsets 0 .. room - 1 keep the last target inside
        self._seed = np.uint64(seed % (1 << 64))
        self._half_bits = np.uint64(max(1, ((self.n_windows - 1).bit_length() + 1) // 2))

    def starts(self, first: int, n: int) -> np.ndarray:
        """Return where windows number ``first`` to ``first + n``, counted from 0 over all epochs, begin: int64 (n,).

        A rank or micro-batch takes its slice: the batch is the same however it is sliced.
        """
        index = first + np.arange(n, dtype=np.int64)
        epoch, place = np.divmod(index, self.n_windows)
        key = _mix(epoch.astype(np.uint64) ^ _mix(np.full(n, self._seed)))
        window = self._permute(place.astype(np.uint64), key)
        offset = _mix(key) % np.uint64(self._room)
        return (window * np.uint64(self.context) + offset).astype(np.int64)

    def _permute(self, place: np.ndarray, key: np.ndarray) -> np.ndarray:
        out = self._feistel(place, key)
        while (outside := out >= self.n_windows).any():
            out[outside] = self._feistel(out[outside], key[outside])
        return out

    def _feistel(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        half = self._half_bits
        mask = (np.uint64(1) << half) - np.uint64(1)
        left, right = value >> half, value & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (_mix(key + right * np.uint64(_ROUNDS) + np.uint64(number)) & mask)
        return (left << half) | right


def _mix(value: np.ndarray) -> np.ndarray:
    """Scatter 64-bit numbers (SplitMix64: Steele, Lea & Flood 2014); arrays, whose overflow is silent."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def batch(stream: Stream, starts: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (inputs, targets) of the windows at ``starts``, int64 (n, context), targets one token on."""
    ids = np.empty((len(starts), context + 1), dtype=np.int64)
    for row, start in zip(ids, starts.tolist(), strict=True):
        row[:] = stream.read(start, context + 1)
    return np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])


def check_length(n_tokens: int, context: int, split: str) -> None:
    """Make sure that ``n_tokens`` hold one window.

    Raises:
        DataError: they do not.
    """
    if n_tokens < context + 1:
        raise DataError(
            f"the {split} split has {n_tokens} tokens, and one window of context {context} with its target "
            f"needs {context + 1}: give more text, lower model.max_seq_len, or change data.val_fraction"
        )


def validation_batches(stream: Stream, context: int, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (inputs, targets), int64 (at most ``rows``, context): each token but the first is a target once.

    Windows follow one another in order; the end of the last is filled with input 0 and target `IGNORE`.

    Raises:
        DataError: the stream is shorter than one window and its target.
    """
    check_length(len(stream), context, "validation")
    total = len(stream) - 1
    for first in range(0, total, rows * context):
        count = min(rows * context, total - first)
        ids = stream.read(first, count + 1)
        height = -(-count // context)
        inputs = np.zeros(height * context, dtype=np.int64)
        targets = np.full(height * context, IGNORE, dtype=np.int64)
        inputs[:count], targets[:count] = ids[:-1], ids[1:]
        yield inputs.reshape(height, context), targets.reshape(height, context)
