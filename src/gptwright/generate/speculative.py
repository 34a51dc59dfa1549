"""Guessing ahead: several tokens are checked by one run of the model, and what is written stays the same.

Shapes: g guessed tokens, V vocabulary.

A guess is checked against the very tokens that plain decoding draws: each position's own logits, settings and random
number. Greedy and sampled texts are therefore those of plain decoding, not only distributed alike; only where two
tokens are equal to within rounding may the other way of summing decide between them.
"""

from collections.abc import Callable
from typing import Any, Literal

from gptwright.errors import GptwrightError
from gptwright.generate.choose import Choice, choose
from gptwright.generate.engine import Ticket
from gptwright.generate.gate import Gate, lengths
from gptwright.generate.guess import Draft, Guesser, PromptLookup, bounded
from gptwright.model.decoder import Decoder
from gptwright.model.gpt import GPT

Take = Callable[[Choice], bool]
"""Hands a choice to its text; returns whether that was the last."""


class Speculation:
    """Lets one text go on, by guesses where they pay."""

    def __init__(self, model: GPT, guesser: Guesser, gate: Gate | None = None) -> None:
        self.guesser, self.gate = guesser, gate or Gate()
        self.guessed = 0
        """Tokens guessed so far."""
        self.accepted = 0
        """Guessed tokens that were right."""
        self.steps = 0
        """Runs of the model, guesses or not."""
        self._bounded = bounded(model)
        self._ticket: Ticket | None = None
        self._ids: list[int] = []

    def prepare(self, decoder: Decoder) -> None:
        """Set up what checking guesses needs, before there is a text that would have to wait for it."""
        for length in lengths(self.guesser.length):
            decoder.prepare(1 + length)

    def advance(self, decoder: Decoder, row: int, ticket: Ticket, take: Take) -> list[Choice]:
        """Feed the one unread token of ``ticket``, perhaps with guesses; return the new choices, at least one.

        Each choice goes through ``take`` in its turn. Afterwards the row has been fed all but the last of them.
        """
        pending = ticket.unread[0]
        if ticket is self._ticket and self.gate.rests():
            self.steps += 1
            return _accept(_stepped(decoder, row, pending), [], ticket, take)
        self._follow(ticket)
        kind, began = self.guesser.look(self._ids), self.gate.clock()
        length = 0 if kind is None else self._length(decoder, row, ticket, kind)
        self.steps += 1
        if kind is None or not length:
            choices = _accept(_stepped(decoder, row, pending), [], ticket, take)
            self.gate.stepped(self.gate.clock() - began)
            return choices
        guess = self.guesser.guess(self._ids, length)
        choices = self._check(decoder, row, ticket, take, pending, guess)
        self.guessed, self.accepted = self.guessed + len(guess), self.accepted + len(choices) - 1
        self.gate.checked(kind, len(guess), len(choices) - 1, self.gate.clock() - began)
        return choices

    def _length(self, decoder: Decoder, row: int, ticket: Ticket, kind: int) -> int:
        """Return how many tokens to guess; 0 where that is not expected to pay."""
        room = self._room(decoder, row, ticket)
        return self.gate.length(kind, room, lambda length: decoder.setup_seconds(row, 1 + length))

    def _check(
        self, decoder: Decoder, row: int, ticket: Ticket, take: Take, pending: int, guess: list[int]
    ) -> list[Choice]:
        start = decoder.lengths[row]
        snapshot = decoder.snapshot(row) if self._bounded else None
        logits = decoder.extend(row, [pending, *guess], every=True)  # (1 + g, V)
        choices = _accept(logits, guess, ticket, take)
        fed = start + len(choices)
        if fed == start + 1 + len(guess):
            return choices
        if decoder.can_rewind(row, fed):
            decoder.rewind(row, fed)
        else:
            decoder.restore(row, snapshot)
            decoder.extend(row, [pending, *guess[: len(choices) - 1]])
        return choices

    def _follow(self, ticket: Ticket) -> None:
        """Bring the ids of the text up to date."""
        if ticket is not self._ticket:
            self._ticket, self._ids = ticket, list(ticket.request.ids)
            self.guesser.begin(ticket)
            self.gate.begin(ticket.room)
        self._ids += ticket.ids[len(self._ids) - len(ticket.request.ids) :]

    def _room(self, decoder: Decoder, row: int, ticket: Ticket) -> int:
        """Return how many tokens can be guessed: neither beyond where positions end, nor beyond the last token."""
        room = min(self.guesser.length, ticket.room - len(ticket.ids) - 1)
        return room if decoder.limit is None else min(room, decoder.limit - decoder.lengths[row] - 1)


def speculation(model: GPT, kind: Literal["lookup"] | GPT, *, length: int | None = None) -> Speculation:
    """Return what guesses ahead for ``model``: by ``lookup`` in the text so far, or by a smaller model.

    Args:
        model: the model that writes.
        kind: ``lookup``, or the model that guesses.
        length: tokens to guess at a time, at most; by default 10 by lookup and 6 by a model.

    Raises:
        GptwrightError: the smaller model reads other tokens, or ``kind`` is unknown.
    """
    if length is not None and length < 1:
        raise GptwrightError(f"length is {length}, and must be at least 1; leave it out for the default")
    how: dict[str, Any] = {} if length is None else {"length": length}
    if isinstance(kind, GPT):
        _check_draft(model, kind)
        return Speculation(model, Draft(kind, **how))
    if kind != "lookup":
        raise GptwrightError(f"guesses come by 'lookup' or from a model, not from {kind!r:.40}")
    return Speculation(model, PromptLookup(**how))


def _stepped(decoder: Decoder, row: int, token: int) -> Any:
    """Feed one token to a row; return its logits (1, V)."""
    return decoder.step([token]) if row == 0 else decoder.extend(row, [token])[None]


def _accept(logits: Any, guess: list[int], ticket: Ticket, take: Take) -> list[Choice]:
    """Draw tokens from ``logits`` (1 + g, V) in order, until one differs from the guess or ends the text."""
    choices: list[Choice] = []
    for place in range(1 + len(guess)):
        (choice,) = choose(logits[place : place + 1], [ticket.chooser])
        choices.append(choice)
        if take(choice) or place == len(guess) or choice.token != guess[place]:
            break
    return choices


def _check_draft(model: GPT, draft: GPT) -> None:
    ours, theirs = model.config.require_vocab_size(), draft.config.require_vocab_size()
    if ours != theirs:
        raise GptwrightError(
            f"the draft has a vocabulary of {theirs:,} tokens and the model one of {ours:,}; a draft must read the "
            "same tokens: train it with the model's tokenizer"
        )
    if model.tokenizer is None or draft.tokenizer is None:
        return
    if model.tokenizer.fingerprint != draft.tokenizer.fingerprint:
        raise GptwrightError(
            f"the draft's {draft.tokenizer.type_name()} tokenizer is not the model's "
            f"{model.tokenizer.type_name()} tokenizer, and their ids mean different texts; train the draft with the "
            "model's tokenizer"
        )
