"""How the next token is drawn, and when a continuation ends: the settings, and which of them have no meaning."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple

from gptwright.errors import GptwrightError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn, and when a continuation ends.

    Settings act in this order: repetition, presence and frequency penalties, bias, what may not come yet or not by a
    constraint, temperature, top-k, top-p, min-p, typical; each filter works among what the one before it left.
    """

    max_new_tokens: int | None = None
    """Tokens to add at most; None lets whoever generates decide."""
    temperature: float = 0.8
    """Divides the logits: below 1 makes likely tokens likelier; 0 takes the likeliest, the first of equal ones."""
    top_k: int | None = None
    """Draw among this many likeliest tokens (Fan et al., 2018); of equally likely ones the first are taken."""
    top_p: float | None = None
    """Draw among the likeliest tokens that together reach this probability (Holtzman et al., 2019), in (0, 1]."""
    min_p: float | None = None
    """Draw among tokens at least this many times as likely as the likeliest (Nguyen et al., 2024), in [0, 1]."""
    typical_p: float | None = None
    """Draw among the tokens nearest to the mean surprise that together reach this probability (Meister et al., 2022),
    in (0, 1]."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of all tokens of prompt and text, and multiplies the negative ones (Keskar et al.,
    2019); above 1 makes them rarer."""
    presence_penalty: float = 0.0
    """Lowers the logit of each token that was written, the prompt not counted; in [-2, 2], as in OpenAI's API."""
    frequency_penalty: float = 0.0
    """Lowers the logit of a token each time that it was written, the prompt not counted; in [-2, 2]."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """What to add to the logits of some token ids; minus infinity rules one out."""
    min_new_tokens: int = 0
    """Tokens to add at least: what ends a text by its id is ruled out before."""
    stop_ids: tuple[int, ...] = ()
    """Token ids that end the continuation and belong to it."""
    stop: tuple[str, ...] = ()
    """Strings that end the continuation where they first appear, and are not part of it."""
    logprobs: int | None = None
    """None for none; 0 for the log-probability (natural) of each token written, k for those of the k likeliest too.
    They are the model's, before any setting."""
    seed: int | None = None
    """Makes the draw repeatable: any whole number."""
    ignore_end: bool = False
    """Go on after a token that ends a text."""

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken and nothing drawn."""
        return self.temperature == 0

    def check(self, vocab_size: int) -> None:
        """Refuse settings that have no meaning, for a model with ``vocab_size`` tokens.

        Raises:
            GptwrightError: a value is out of its range, an id is not in the vocabulary, or two settings contradict.
        """
        for problem in _problems(self, vocab_size):
            raise GptwrightError(problem)


class _Rule(NamedTuple):
    kind: type
    holds: Callable[[Any], bool]
    words: str
    way_out: str


_ANY = "leave it out to allow every token"
_RULES = {
    "max_new_tokens": _Rule(Integral, lambda n: n >= 0, "cannot be negative", "use 0 or more"),
    "min_new_tokens": _Rule(Integral, lambda n: n >= 0, "cannot be negative", "use 0 or more"),
    "temperature": _Rule(Real, lambda t: 0 <= t < math.inf, "must be 0 or more", "0 takes the likeliest token"),
    "top_k": _Rule(Integral, lambda k: k >= 1, "must be at least 1", _ANY),
    "top_p": _Rule(Real, lambda p: 0 < p <= 1, "must be above 0 and at most 1", _ANY),
    "min_p": _Rule(Real, lambda p: 0 <= p <= 1, "must be from 0 to 1", _ANY),
    "typical_p": _Rule(Real, lambda p: 0 < p <= 1, "must be above 0 and at most 1", _ANY),
    "repetition_penalty": _Rule(Real, lambda r: 0 < r < math.inf, "must be above 0, and finite", "1 is no penalty"),
    "presence_penalty": _Rule(Real, lambda x: -2 <= x <= 2, "must be from -2 to 2", "0 is no penalty"),
    "frequency_penalty": _Rule(Real, lambda x: -2 <= x <= 2, "must be from -2 to 2", "0 is no penalty"),
    "logprobs": _Rule(Integral, lambda n: n >= 0, "cannot be negative", "0 gives the written token's alone"),
    "seed": _Rule(Integral, lambda n: True, "must be a whole number", "leave it out for another draw each time"),
}
"""What each number must be; None passes where the setting's default is None."""


def _problems(sampling: Sampling, vocab_size: int) -> Iterator[str]:
    yield from _wrong_numbers(sampling)
    yield from _wrong_ids(sampling, vocab_size)
    yield from _wrong_strings(sampling)
    yield from _contradictions(sampling)


def _wrong_numbers(sampling: Sampling) -> Iterator[str]:
    for name, rule in _RULES.items():
        value = getattr(sampling, name)
        if value is None and Sampling.__dataclass_fields__[name].default is None:
            continue
        if not isinstance(value, rule.kind) or isinstance(value, bool):
            kind = "whole number" if rule.kind is Integral else "number"
            yield f"{name} is {value!r} and must be a {kind}; {rule.way_out}"
        elif not rule.holds(value):
            yield f"{name} is {value} and {rule.words}; {rule.way_out}"


def _wrong_ids(sampling: Sampling, vocab_size: int) -> Iterator[str]:
    for name, ids in (("stop_ids", sampling.stop_ids), ("logit_bias", sampling.logit_bias)):
        for id in ids:
            if not isinstance(id, Integral) or not 0 <= id < vocab_size:
                yield (
                    f"{name} names token {id!r}, and the model's ids are 0 to {vocab_size - 1}; give ids of its own "
                    "tokenizer"
                )
    for id, bias in sampling.logit_bias.items():
        if not isinstance(bias, Real) or math.isnan(bias) or bias == math.inf:
            yield f"logit_bias of token {id} is {bias!r} and must be a finite number; -inf rules the token out"


def _wrong_strings(sampling: Sampling) -> Iterator[str]:
    if isinstance(sampling.stop, str):
        yield f"stop is the string {sampling.stop!r} and must be a list of strings; write [{sampling.stop!r}]"
        return
    for text in sampling.stop:
        if not isinstance(text, str):
            yield f"stop holds {text!r} and must hold strings; give token ids in stop_ids"
        elif not text:
            yield "stop holds an empty string, which would end every text at once; leave it out"


def _contradictions(sampling: Sampling) -> Iterator[str]:
    most, least = sampling.max_new_tokens, sampling.min_new_tokens
    if most is not None and least > most:
        yield f"min_new_tokens is {least} and max_new_tokens {most}: at least cannot be more than at most; change one"
    if sampling.greedy:
        for name in ("top_k", "top_p", "min_p", "typical_p"):
            value = getattr(sampling, name)
            if value is not None:
                yield (
                    f"temperature is 0, which takes the likeliest token, and {name} is {value}, which says what to "
                    "draw from: leave one of them out"
                )
