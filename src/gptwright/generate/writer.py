"""Continuations of text: many at once through one engine, each read as characters while it grows."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gptwright.errors import GptwrightError
from gptwright.generate.choose import Choice
from gptwright.generate.completion import Completion, tokens_of
from gptwright.generate.constraint import Constraint
from gptwright.generate.engine import Engine, Overflow, Request, Ticket
from gptwright.generate.sampling import Sampling
from gptwright.generate.speculative import speculation
from gptwright.generate.stop import StopStrings
from gptwright.model.gpt import GPT
from gptwright.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class How:
    """How texts are continued, besides their `Sampling`."""

    overflow: Overflow = "refuse"
    """Where positions end: ``refuse`` what has no room, or ``slide`` on with the latest part of the text."""
    rows: int = 16
    """Texts that are written at the same time, at most."""
    regex: str | None = None
    """A regular expression that each whole continuation matches."""
    json_schema: Mapping[str, Any] | str | None = None
    """A JSON schema that each whole continuation obeys."""
    speculate: str | int | None = None
    """``prompt`` guesses that the text repeats itself, a number that many tokens at once; it stays the same."""
    draft: GPT | None = None
    """A smaller model with the same tokenizer that guesses; what is written stays the same."""

    def check(self) -> None:
        """Refuse what has no meaning, or means two things at once."""
        if self.overflow not in ("refuse", "slide"):
            raise GptwrightError(f"overflow is {self.overflow!r} and must be 'refuse' or 'slide'")
        if self.rows < 1:
            raise GptwrightError(f"rows is {self.rows} and must be at least 1")
        if self.regex is not None and self.json_schema is not None:
            raise GptwrightError("regex and json_schema both say what may be written; give one of the two")
        if self.speculate is not None and self.speculate != "prompt" and not _positive(self.speculate):
            raise GptwrightError(
                f"speculate is {self.speculate!r} and must be 'prompt' or a number of tokens above 0; leave it out to "
                "guess nothing, or give a draft model"
            )
        if self.speculate is not None and self.draft is not None:
            raise GptwrightError("speculate guesses from the text and draft with a model; give one of the two")

    def guesser(self, model: GPT) -> Any:
        """Return what guesses tokens ahead, if anything was asked to."""
        if self.draft is not None:
            return speculation(model, self.draft)
        if self.speculate is None:
            return None
        return speculation(model, "lookup", length=None if isinstance(self.speculate, str) else self.speculate)

    def constraint(self, tokenizer: Tokenizer) -> Constraint | None:
        """Return a new constraint for one continuation, if there is to be any."""
        if self.regex is not None:
            return Constraint.regex(self.regex, tokenizer)
        return None if self.json_schema is None else Constraint.json_schema(self.json_schema, tokenizer)


class Continuation:
    """A text on its way."""

    def __init__(self, writer: "Writer", prompt: str, ids: list[int], sampling: Sampling, sample: int) -> None:
        self.prompt, self.sampling, self._writer = prompt, sampling, writer
        self.tokenizer = writer.tokenizer
        self._pieces: list[str] = []
        self._read = 0
        self._characters = self.tokenizer.stream()
        self._stops = StopStrings(sampling.stop)
        self._began = time.perf_counter()
        self._seconds: float | None = None
        self.ticket: Ticket = writer.engine.submit(
            Request(
                ids,
                sampling,
                sample=sample,
                end_ids=writer.end_ids,
                constraint=writer.how.constraint(self.tokenizer),
                on_token=self._take,
            )
        )

    @property
    def done(self) -> bool:
        """Whether it has ended; then its text is complete."""
        if self.ticket.done and self._seconds is None:
            self._add(self._characters.flush())
            self._pieces.append(self._stops.flush())
            self._seconds = time.perf_counter() - self._began
        return self.ticket.done

    @property
    def text(self) -> str:
        """What is certain to be part of the text so far."""
        return "".join(self._pieces)

    def new_text(self) -> str:
        """Return what was added since the last call."""
        found, self._read = "".join(self._pieces[self._read :]), len(self._pieces)
        return found

    def pieces(self) -> Iterator[str]:
        """Yield the text as it grows, in whole characters, working on everything that the writer has to do.

        Closing the iterator cancels the continuation.
        """
        try:
            while not self.done:
                if piece := self.new_text():
                    yield piece
                self._writer.step()
            if piece := self.new_text():
                yield piece
        finally:
            self.ticket.cancel()

    def completion(self) -> Completion:
        """Return what there is; while it is on its way, as if it were cancelled now."""
        seconds = self._seconds if self.done else None
        return Completion(
            prompt=self.prompt,
            text=self.text,
            ids=list(self.ticket.ids),
            finish_reason=self.ticket.finish_reason or "cancelled",
            tokens=None if self.sampling.logprobs is None else tokens_of(self.tokenizer, self.ticket.choices),
            seconds=time.perf_counter() - self._began if seconds is None else seconds,
            prompt_tokens=len(self.ticket.request.ids),
        )

    def _take(self, ticket: Ticket, choice: Choice) -> bool:
        """Take in a new token; return whether a stop string is complete."""
        del ticket
        if choice.token not in self.sampling.stop_ids:  # which ends the text and is no part of it
            known = choice.token < self.tokenizer.vocab_size
            self._add(self._characters.push(choice.token) if known else "\ufffd")
        return self._stops.found is not None

    def _add(self, piece: str) -> None:
        """Add characters; stop strings count from the shortest length on."""
        early = len(self.ticket.ids) <= self.sampling.min_new_tokens
        self._pieces.append(piece if early else self._stops.push(piece))


class Writer:
    """Continues texts with one model, ``how.rows`` of them at a time."""

    def __init__(self, model: GPT, how: How | None = None) -> None:
        self.model, self.how = model, how or How()
        self.how.check()
        self.tokenizer = tokenizer_of(model)
        self.end_ids = list(self.tokenizer.end_ids)
        self.engine = Engine(model, rows=self.how.rows, overflow=self.how.overflow, speculation=self.how.guesser(model))
        self._going: dict[int, Continuation] = {}

    def submit(self, prompt: str, sampling: Sampling | None = None, *, sample: int = 0) -> Continuation:
        """Take in a prompt; ``sample`` is its number among those that share a seed.

        Raises:
            GptwrightError: the prompt does not fit or is empty where no token begins a text, or settings contradict.
        """
        ids = encode_prompt(self.model, prompt, overflow=self.how.overflow)
        going = Continuation(self, prompt, ids, sampling or Sampling(), sample)
        self._going[id(going.ticket)] = going
        return going

    @property
    def busy(self) -> bool:
        """Whether anything is on its way."""
        return self.engine.busy

    def step(self) -> list[Continuation]:
        """Let everything on its way go on by a little; return what has ended.

        Raises:
            GptwrightError: a text could not go on.
        """
        moved = self.engine.step()
        for ticket in moved:
            if ticket.error is not None:
                raise ticket.error
        ended = [self._going.pop(id(ticket), None) for ticket in moved if ticket.done]
        return [each for each in ended if each is not None and each.done]  # which completes its text

    def run(self) -> None:
        """Go on until everything is written."""
        while self.busy:
            self.step()


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def encode_prompt(model: GPT, prompt: str, *, overflow: Overflow = "refuse") -> list[int]:
    """Return the token ids of ``prompt``, first of all those that every text begins with.

    An empty prompt begins a new document.

    Raises:
        GptwrightError: it is longer than the model's context, or empty where no token begins a document.
    """
    tokenizer, limit = tokenizer_of(model), model.config.max_seq_len
    ids = begun(tokenizer, tokenizer.encode(prompt).tolist())
    if not ids:
        if tokenizer.eot_id is None:
            raise GptwrightError(
                "the prompt is empty and this tokenizer has no token that begins a text; give a prompt"
            )
        return [tokenizer.eot_id]
    if len(ids) > limit and overflow == "refuse":
        endless = model.config.position.limit(model.config.context(0)) is None
        raise GptwrightError(
            f"the prompt has {len(ids)} tokens and the model's context (max_seq_len) is {limit}; shorten the prompt or "
            f"train with a larger model.max_seq_len{', or go beyond it with overflow slide' if endless else ''}"
        )
    return ids


def begun(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Return ``ids`` after those that every text begins with, unless they do so already."""
    prefix = list(tokenizer.prefix_ids)
    return ids if ids[: len(prefix)] == prefix else [*prefix, *ids]


def tokenizer_of(model: GPT) -> Tokenizer:
    """Return the tokenizer that a model was trained with.

    Raises:
        GptwrightError: it has none.
    """
    if model.tokenizer is None:
        raise GptwrightError(
            "this model has no tokenizer; load a run with gptwright.load('runs/NAME'), or use token ids"
        )
    return model.tokenizer
