"""From logits to the next token of each sequence, each by its own settings.

Shapes: n sequences, V vocabulary. Nothing here depends on which sequences stand beside one another: rows are taken
one by one, and each draws by its own chance.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.generate.draw import draw, uniform
from gptwright.generate.narrow import likeliest, narrow
from gptwright.generate.sampling import Sampling
from gptwright.ops.sampling import add_bias, penalise_counts, penalise_repetition


class Choice(NamedTuple):
    """A token that was chosen."""

    token: int
    logprob: float | None = None
    """Natural logarithm of its probability by the model, before any setting; None where it was not asked for."""
    top: tuple[tuple[int, float], ...] | None = None
    """The likeliest tokens with theirs, likeliest first."""


class Allowing(Protocol):
    """What says which tokens may come next; see `gptwright.generate.constraint`."""

    @property
    def finished(self) -> bool:
        """Whether nothing may follow any more."""
        ...

    def mask(self) -> Tensor:
        """Return what may come next, bool (V,) or shorter: ids beyond it may not."""
        ...

    def take(self, token: int) -> None:
        """Take note of the token that came."""
        ...


class Chooser:
    """Chooses the tokens of one sequence, one after another.

    Args:
        sampling: how, checked by `Sampling.check`.
        prompt: token ids that the repetition penalty counts too.
        vocab_size: V.
        seed: with ``sample`` and the number of a new token, decides what is drawn for it.
        sample: number of the sequence among those of one prompt.
        end_ids: tokens that end a text.
        constraint: what may come next, if not everything; it is told each token, and belongs to this sequence alone.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        vocab_size: int,
        seed: int,
        sample: int = 0,
        end_ids: Sequence[int] = (),
        constraint: Allowing | None = None,
    ) -> None:
        self.sampling, self.seed, self.sample, self.constraint = sampling, seed, sample, constraint
        self.vocab_size = vocab_size
        self.index = 0
        """Tokens chosen so far."""
        self._prompt = prompt
        self._ends = sorted({*sampling.stop_ids, *(() if sampling.ignore_end else end_ids)})
        self._untouched = constraint is None and not (sampling.logit_bias or sampling.min_new_tokens or self._penalises)

    @property
    def likeliest_of_all(self) -> bool:
        """Whether the choice is the greatest logit, whatever came before, and nothing more is asked."""
        return self.sampling.greedy and self._untouched and self.sampling.logprobs is None

    @property
    def _penalises(self) -> bool:
        sampling = self.sampling
        return sampling.repetition_penalty != 1 or bool(sampling.presence_penalty or sampling.frequency_penalty)

    @cached_property
    def _counts(self) -> Tensor:
        """How often each token was written (V,)."""
        return torch.zeros(self.vocab_size)

    @cached_property
    def _seen(self) -> Tensor:
        """Whether each token is in the prompt or was written (V,)."""
        seen = torch.zeros(self.vocab_size, dtype=torch.bool)
        seen[list(self._prompt)] = True
        return seen

    def take(self, token: int) -> None:
        """Take note of the token that was chosen."""
        self.index += 1
        if self._penalises:
            self._counts[token] += 1
            self._seen[token] = True
        if self.constraint is not None:
            self.constraint.take(token)

    def choose(self, logits: np.ndarray) -> Choice:
        """Return the next token by ``logits`` (V,) float32, without taking note of it.

        Raises:
            GptwrightError: the logits are not numbers, or the settings leave no token.
        """
        best = int(logits.argmax())  # a NaN counts as the greatest
        check_finite(float(logits[best]))
        if self.likeliest_of_all:
            return Choice(best)
        scores, ids = (logits, None) if self._untouched else self._adjusted(logits)
        place = int(scores.argmax()) if self.sampling.greedy else self._drawn(scores)
        token = place if ids is None else int(ids[place])
        return self._with_logprobs(logits, token)

    def _adjusted(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what penalties and bias make of the scores of the tokens that may come, and their ids if not all."""
        scores = self._penalised(torch.from_numpy(logits)).numpy()
        if self.index < self.sampling.min_new_tokens and self._ends:
            scores = scores.copy()
            scores[self._ends] = -np.inf
        ids = None
        if self.constraint is not None:
            ids = np.flatnonzero(self.constraint.mask().numpy()[: len(scores)])
            scores = scores[ids]
        if not len(scores) or scores.max() == -np.inf:
            raise GptwrightError(self._nothing_left())
        return scores, ids

    def _penalised(self, scores: Tensor) -> Tensor:
        sampling = self.sampling
        if sampling.repetition_penalty != 1:
            scores = penalise_repetition(scores, self._seen, sampling.repetition_penalty)
        if sampling.presence_penalty or sampling.frequency_penalty:
            presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
            scores = penalise_counts(scores, self._counts, presence=presence, frequency=frequency)
        return add_bias(scores, sampling.logit_bias) if sampling.logit_bias else scores

    def _nothing_left(self) -> str:
        who = "logit_bias and min_new_tokens rule out every token"
        if self.constraint is not None:
            who = "the constraint and the other settings (logit_bias, min_new_tokens) contradict: no token is left"
        return f"new token {self.index + 1} cannot be chosen: {who}; relax one of them"

    def _drawn(self, scores: np.ndarray) -> int:
        with np.errstate(over="ignore"):  # a tiny temperature makes minus infinity, which is right
            scores = (scores - scores.max()) / np.float32(max(self.sampling.temperature, 1e-30))
        scores, places = narrow(scores, self.sampling)
        place = draw(scores, uniform(self.seed, self.sample, self.index))
        return place if places is None else int(places[place])

    def _with_logprobs(self, logits: np.ndarray, token: int) -> Choice:
        count = self.sampling.logprobs
        if count is None:
            return Choice(token)
        top = float(logits.max())
        total = top + math.log(np.exp(logits - np.float32(top)).sum(dtype=np.float64))
        places = likeliest(logits, count).tolist() if count else ()
        return Choice(token, float(logits[token]) - total, tuple((id, float(logits[id]) - total) for id in places))


def choose(logits: Tensor, choosers: Sequence[Chooser]) -> list[Choice]:
    """Choose a token for each row of ``logits`` (n, V) float32, and tell each chooser its own.

    Raises:
        GptwrightError: logits are not numbers, or settings leave no token. No chooser was told any token then.
    """
    if logits.device.type != "cpu" and all(chooser.likeliest_of_all for chooser in choosers):
        choices = _greatest(logits)  # one number a row leaves the device in place of a vocabulary
    else:
        rows = logits.detach().float().cpu().numpy()
        choices = [chooser.choose(row) for chooser, row in zip(choosers, rows, strict=True)]
    for chooser, choice in zip(choosers, choices, strict=True):
        chooser.take(choice.token)
    return choices


def _greatest(logits: Tensor) -> list[Choice]:
    values, ids = logits.max(-1)
    for value in values.tolist():
        check_finite(value)
    return [Choice(id) for id in ids.tolist()]


def check_finite(greatest: float) -> None:
    """Refuse logits of which the greatest is no finite number; a NaN counts as the greatest.

    Raises:
        GptwrightError: no token can be chosen.
    """
    if math.isfinite(greatest):
        return
    found = "minus infinity for every token" if greatest == -math.inf else f"{greatest} among them"
    raise GptwrightError(
        f"no token can be chosen from the model's logits, which have {found}: its weights are damaged or a number "
        "overflowed; check the checkpoint, or use a wider precision"
    )
