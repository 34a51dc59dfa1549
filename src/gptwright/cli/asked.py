"""What the options of `gptwright generate` ask for, in the words of the library."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gptwright.errors import DataError, GptwrightError
from gptwright.generate.completion import Completion
from gptwright.generate.sampling import Sampling
from gptwright.generate.text import generate, read_sampling
from gptwright.generate.writer import How
from gptwright.model.gpt import GPT
from gptwright.tokenizer.base import Tokenizer

SHOWN = 5
"""Alternatives of each step in a picture, unless another number is asked for."""
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


@dataclass(frozen=True)
class Asked:
    """Options as they were given; None and empty are those that were not."""

    sampling: Mapping[str, Any]
    """Fields of `Sampling` that can be taken as they are."""
    greedy: bool = False
    logit_bias: Sequence[str] = ()
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    stop_tokens: Sequence[str] = ()
    how: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `How`."""
    samples: int = 1
    beams: int | None = None
    length_penalty: float = 1.0
    show: bool = False
    """Whether a picture of the probabilities is wanted."""

    def check(self) -> None:
        """Refuse what can be seen to be wrong before a model is read."""
        temperature = self.sampling.get("temperature")
        if self.samples < 1:
            raise GptwrightError(f"--num-samples is {self.samples} and must be at least 1")
        if self.beams is None and self.length_penalty != 1.0:
            raise GptwrightError("--length-penalty belongs to beam search; give --beams too, or leave it out")
        if self.greedy and temperature:
            raise GptwrightError(
                f"--greedy takes the likeliest token and --temperature {temperature:g} draws among several; give one "
                "of the two"
            )

    def given(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return the fields of `Sampling` that were asked for, and no others."""
        found: dict[str, Any] = {name: value for name, value in self.sampling.items() if value is not None}
        if self.greedy:
            found["temperature"] = 0.0
        if self.logit_bias:
            found["logit_bias"] = dict(_bias(each, tokenizer) for each in self.logit_bias)
        if self.stop:
            found["stop"] = [unescaped(each) for each in self.stop]
        if self.stop_ids or self.stop_tokens:
            found["stop_ids"] = [*self.stop_ids, *(_stop_token(each, tokenizer) for each in self.stop_tokens)]
        if self.show:
            found.setdefault("logprobs", SHOWN)
        return found

    def guessed_by(self, draft: GPT) -> "Asked":
        """Return the same with a model that guesses tokens ahead."""
        return replace(self, how={**self.how, "draft": draft})

    def draw(self, tokenizer: Tokenizer) -> Sampling:
        """Return how tokens are drawn."""
        return read_sampling(self.given(tokenizer))

    def writing(self, texts: int) -> How:
        """Return how ``texts`` continuations are written."""
        how = How(**{name: value for name, value in self.how.items() if value is not None})
        how.check()
        return replace(how, rows=min(how.rows, texts))

    def search(self, model: GPT, prompts: Sequence[str]) -> list[Completion]:
        """Return what beam search finds."""
        how = {name: value for name, value in self.how.items() if value is not None}
        sampling = self.given(model.tokenizer)
        penalty = self.length_penalty
        found = generate(
            model, prompts, n=self.samples, beams=self.beams, length_penalty=penalty, details=True, **how, **sampling
        )
        return found if self.samples == 1 else [each for group in found for each in group]


def unescaped(text: str) -> str:
    r"""Return ``text`` with ``\n``, ``\t``, ``\r`` and ``\\`` as the characters that they stand for."""
    return re.sub(r"\\([ntr\\])", lambda found: _ESCAPES[found[1]], text)


def read_schema(file: Path | None) -> Mapping[str, Any] | None:
    """Return the JSON schema in ``file``."""
    if file is None:
        return None
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"the schema {file} cannot be read: {error.strerror}; give a file that can") from None
    except ValueError as error:
        raise DataError(f"the schema {file} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"the schema {file} holds {type(found).__name__}, but must be one JSON object")
    return found


def _bias(given: str, tokenizer: Tokenizer) -> tuple[int, float]:
    name, _, value = given.rpartition("=")
    number = _number(value)
    if not name or number is None:
        raise GptwrightError(
            f"--logit-bias {given} has no meaning; write ID=VALUE or 'TEXT'=VALUE, as in 17=-5 or ' the'=2"
        )
    return (int(name) if name.isdecimal() else _one_token(name, tokenizer), number)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _one_token(given: str, tokenizer: Tokenizer) -> int:
    quoted = len(given) > 1 and given[0] == given[-1] and given[0] in "'\""
    text = unescaped(given[1:-1] if quoted else given)
    ids = tokenizer.encode(text).tolist()
    if len(ids) != 1:
        raise GptwrightError(
            f"--logit-bias: {text!r} is {len(ids)} tokens {ids}, and a bias belongs to one; give the ids, one at a time"
        )
    return ids[0]


def _stop_token(text: str, tokenizer: Tokenizer) -> int:
    """Return the id of the token that reads ``text``."""
    if tokenizer.eot_id is not None and tokenizer.decode([tokenizer.eot_id]) == text:
        return tokenizer.eot_id
    try:
        ids = tokenizer.encode(unescaped(text)).tolist()
    except DataError:
        ids = []
    if len(ids) != 1:
        raise GptwrightError(
            f"--stop-token {text!r} is no token of this {tokenizer.type_name()} tokenizer; give one that is, its "
            "number with --stop-id, or the words with --stop"
        )
    return ids[0]
