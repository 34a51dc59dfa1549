"""Log-probabilities of given tokens: many rows at once, and logits only where they are asked for.

Shapes: R rows, T columns, n positions, m tokens asked for, D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptwright.model.evaluating import evaluating
from gptwright.model.gpt import GPT
from gptwright.ops.precision import choose

ROOM = 4096
"""Tokens that are fed at once, padding included, unless a single row is longer."""
ENOUGH = 512
"""Tokens that are enough to keep a machine busy: then rows are fed together only if their lengths are `ALIKE`."""
ALIKE = 0.85
"""Length of a row over that of the longest beside it, at least."""
LOGITS = 1 << 24
"""Logits that are held at once; there are never (R, T, V) of them."""


class Row(NamedTuple):
    """Token ids to feed, and what the last of them should predict."""

    ids: Sequence[int]
    """What is fed, at least as many as there are targets."""
    targets: Sequence[int]
    """The token after each of the last ``ids``, in their order."""
    slots: Sequence[int]
    """For each target, which of the `Totals` it is added to."""


class Totals:
    """Sums of log-probabilities, one a slot, and whether every token of a slot was the likeliest."""

    def __init__(self, count: int) -> None:
        self.logprobs = np.zeros(count)
        """Natural logarithms, float64 (count,)."""
        self.greedy = np.ones(count, dtype=bool)
        """Whether greedy decoding writes every token of the slot (count,)."""


class Wanted:
    """Which tokens are asked for in a batch, and where in it they are predicted."""

    def __init__(self) -> None:
        self._places: list[tuple[int, int]] = []
        self._asked: list[tuple[int, int, int]] = []  # place, token, slot

    def ask(self, row: int, column: int, tokens: Sequence[int], slots: Sequence[int]) -> None:
        """Ask for the log-probability of ``tokens``, each after all that stands in ``row`` up to ``column``."""
        place = len(self._places)
        self._places.append((row, column))
        self._asked += [(place, token, slot) for token, slot in zip(tokens, slots, strict=True)]

    def ask_row(self, row: int, length: int, targets: Sequence[int], slots: Sequence[int]) -> None:
        """Ask for ``targets``, which the last columns of a row of ``length`` ids predict."""
        first = length - len(targets)
        for place, (token, slot) in enumerate(zip(targets, slots, strict=True)):
            self.ask(row, first + place, [token], [slot])

    def __bool__(self) -> bool:
        return bool(self._asked)

    def add_to(self, totals: Totals, model: GPT, hidden: Tensor) -> None:
        """Add what was asked for to ``totals``, from the vectors (R, T, D) that the model's head reads."""
        rows, columns = (torch.tensor(part, device=hidden.device) for part in zip(*self._places, strict=True))
        vectors = hidden[rows, columns]  # (n, D)
        place, token, slot = (np.array(part) for part in zip(*self._asked, strict=True))
        size = max(1, LOGITS // model.config.require_vocab_size())
        for start in range(0, len(vectors), size):
            here = (place >= start) & (place < start + size)
            logprobs, greedy = _chosen(model, vectors[start : start + size], place[here] - start, token[here])
            np.add.at(totals.logprobs, slot[here], logprobs)
            np.logical_and.at(totals.greedy, slot[here], greedy)


def _chosen(model: GPT, vectors: Tensor, place: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probability (m,) of each token at its place, and whether it is the likeliest there."""
    logits = model.logits(vectors).float()  # (n, V)
    at, tokens = (torch.from_numpy(part).to(logits.device) for part in (place, token))
    logprobs = logits[at, tokens] - logits.logsumexp(-1)[at]
    greedy = logits.argmax(-1)[at] == tokens
    return logprobs.double().cpu().numpy(), greedy.cpu().numpy()


@contextmanager
def scoring(model: GPT, precision: str = "fp32") -> Iterator[GPT]:
    """Yield ``model`` as it scores: in eval mode, without gradients, computing in ``precision`` (fp32 or bf16).

    fp32 is exact to rounding, through the fastest exact product that this machine has.

    Raises:
        ConfigError: there is no such precision.
    """
    chosen = choose(precision, model.device)
    with chosen.scope(), evaluating(model), torch.inference_mode():
        yield model if model.dtype == chosen.compute_dtype else model.twin(chosen.compute_dtype).eval()


def score_rows(model: GPT, rows: Sequence[Row], totals: Totals, *, most: int | None = None) -> None:
    """Add the log-probability of every target of ``rows``; inside `scoring`.

    Rows are padded on the right, where no real token sees it; the longest are fed first. ``most`` limits how many
    are fed at once.
    """
    for numbers in batches([len(row.ids) for row in rows], most=most):
        wanted, group = Wanted(), [rows[number] for number in numbers]
        for number, row in enumerate(group):
            wanted.ask_row(number, len(row.ids), row.targets, row.slots)
        ids, _ = padded([row.ids for row in group], model.device)
        wanted.add_to(totals, model, model.hidden(ids, model.describe(ids)))


def batches(lengths: Sequence[int], *, room: int = ROOM, most: int | None = None) -> Iterator[list[int]]:
    """Yield the numbers of what is fed together, longest first: at most ``room`` tokens with padding, ``most`` rows.

    A batch that is large enough ends where rows become much shorter than its first, which is what pads them.
    """
    batch: list[int] = []
    longest = 0
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        full = (len(batch) + 1) * longest > room or len(batch) == most
        if batch and (full or (len(batch) * longest >= ENOUGH and lengths[number] < ALIKE * longest)):
            yield batch
            batch = []
        longest = lengths[number] if not batch else longest
        batch.append(number)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids (R, T) padded on the right, and a mask (R, T) that is True at real tokens."""
    longest = max(len(row) for row in rows)
    ids, mask = np.zeros((len(rows), longest), dtype=np.int64), np.zeros((len(rows), longest), dtype=bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, True
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
