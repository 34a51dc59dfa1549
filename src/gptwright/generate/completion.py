"""A finished continuation: its text, and how each token of it was chosen."""

from dataclasses import dataclass
from typing import Any

from gptwright.generate.choose import Choice
from gptwright.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Token:
    """A token with its log-probability under the model."""

    id: int
    """Its number in the vocabulary."""
    text: str
    """What it stands for; U+FFFD in place of a part of a character."""
    raw: bytes
    """Its UTF-8 bytes, perhaps only a part of a character."""
    logprob: float
    """Natural logarithm of its probability, before any sampling setting."""
    top: "tuple[Token, ...]" = ()
    """The likeliest tokens of this step, likeliest first; they have no such list of their own."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it; ``bytes`` are there where the text cannot say them."""
        found: dict[str, Any] = {"id": self.id, "text": self.text, "logprob": self.logprob}
        if self.raw != self.text.encode():
            found["bytes"] = list(self.raw)
        return {**found, "top": [each.to_dict() for each in self.top]} if self.top else found


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt."""

    prompt: str
    """The text that was continued."""
    text: str
    """What follows it, up to a stop string."""
    ids: list[int]
    """The new token ids; a stop id and the tokens of a stop string are among them, the end of the text is not."""
    finish_reason: str
    """``stop`` (end of the text, stop id, stop string, constraint), ``length`` or ``cancelled``."""
    tokens: list[Token] | None
    """The new tokens with their log-probabilities, when `logprobs` asked for them."""
    seconds: float
    """From the beginning of the call until it was finished, other texts of the call included."""
    prompt_tokens: int
    """Tokens of the prompt."""

    @property
    def full(self) -> str:
        """The prompt and what follows it."""
        return self.prompt + self.text


def token_of(tokenizer: Tokenizer, id: int, logprob: float) -> Token:
    """Return a token with its words; an id that the tokenizer does not know has none."""
    raw = tokenizer.token_bytes(id) if id < tokenizer.vocab_size else b""
    return Token(id, raw.decode("utf-8", errors="replace"), raw, logprob)


def tokens_of(tokenizer: Tokenizer, choices: list[Choice]) -> list[Token] | None:
    """Return the tokens that were chosen; None where no log-probabilities were asked for."""
    found = []
    for choice in choices:
        if choice.logprob is None:
            return None
        token = token_of(tokenizer, choice.token, choice.logprob)
        top = tuple(token_of(tokenizer, id, logprob) for id, logprob in choice.top or ())
        found.append(Token(token.id, token.text, token.raw, token.logprob, top))
    return found
