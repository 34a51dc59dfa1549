"""Many sequences at once over token ids: they join and leave between steps, and none waits for another.

Each step gives one token to every sequence that writes, and reads one chunk of a prompt that waits. A sequence is read
and written in the same way whatever stands beside it, so that a seed gives the same text alone and in any batch.
"""

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.generate.choose import Choice, Chooser, choose
from gptwright.generate.prefixes import Prefixes, Reuse
from gptwright.generate.request import Request, Ticket
from gptwright.model.decode import Overflow
from gptwright.model.decoder import Decoder
from gptwright.model.gpt import GPT
from gptwright.model.vocabulary import check_ids

__all__ = ["Engine", "Overflow", "Request", "Reuse", "Ticket"]

NEW_TOKENS = 200
"""New tokens where none are asked for, if there is room for so many."""
CHUNK = 128
"""Tokens of a prompt that are read at a time. Prompts are cut at its multiples, wherever they begin to be read."""
ROOM = 1024
"""Tokens that rows are made for at first, at most."""


class Engine:
    """Continues any number of requests, ``rows`` at a time.

    Args:
        model: the model; it is put into eval mode.
        rows: sequences that are written at the same time.
        overflow: where positions end: ``refuse`` what would not fit, or ``slide`` on with the latest half, read anew.
        chunk: tokens of a prompt read at a time.
        reuse: what of earlier prompts need not be read again: ``chunks`` that begin alike, for texts that are the same
            whatever was read before; ``all`` that was read or written, where rounding may tell; or ``none``.
        speculation: what guesses ahead while one sequence writes alone; see `gptwright.generate.speculative`.
    """

    def __init__(
        self,
        model: GPT,
        *,
        rows: int = 16,
        overflow: Overflow = "refuse",
        chunk: int = CHUNK,
        reuse: Reuse = "chunks",
        speculation: Any = None,
    ) -> None:
        _check(rows, overflow, chunk)
        self.model, self.overflow, self.chunk, self.speculation = model, overflow, chunk, speculation
        self.decoder = Decoder(model, rows=rows, length=min(ROOM, model.config.max_seq_len))
        self.waiting: deque[Ticket] = deque()
        self.tickets: list[Ticket] = []
        """Those being worked on, each in the row of its place; the last may still be read."""
        self._prefixes = Prefixes(self.decoder, chunk, reuse)
        if speculation is not None:
            speculation.prepare(self.decoder)
        self._vocab = model.config.require_vocab_size()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.tickets)

    def submit(self, request: Request) -> Ticket:
        """Take in a request; its first token comes with one of the next steps.

        Raises:
            GptwrightError: the prompt is empty or does not fit, an id is unknown, or settings have no meaning.
        """
        sampling = request.sampling
        sampling.check(self._vocab)
        check_ids(request.ids, self._vocab)
        room = self._room(len(request.ids), sampling.max_new_tokens)
        seed = request.seed if request.seed is not None else sampling.seed
        seed = secrets.randbits(63) if seed is None else seed
        chooser = Chooser(sampling, request.ids, self._vocab, seed, request.sample, request.end_ids, request.constraint)
        ticket = Ticket(request, chooser, room)
        if not ticket.done:
            self.waiting.append(ticket)
        return ticket

    def step(self) -> list[Ticket]:
        """Give every sequence that writes its next token, and read on in one that waits; return those that moved."""
        self._leave()
        moved = self._write() + self._read()
        self._leave()
        return moved

    def run(self) -> None:
        """Go on until everything is done.

        Raises:
            GptwrightError: a text could not go on; the others are done then.
        """
        began = [*self.tickets, *self.waiting]
        while self.busy:
            self.step()
        for ticket in began:
            if ticket.error is not None:
                raise ticket.error

    def iterate(self, ticket: Ticket) -> Iterator[Choice]:
        """Yield the choices of a ticket as they come; all other sequences go on as well.

        Raises:
            GptwrightError: the text could not go on.
        """
        given = 0
        while True:
            while given < len(ticket.choices):
                yield ticket.choices[given]
                given += 1
            if ticket.error is not None:
                raise ticket.error
            if ticket.done:
                return
            self.step()

    def _room(self, prompt: int, asked: int | None) -> int:
        """Return how many new tokens there may be."""
        limit = self.decoder.limit
        if limit is None or self.overflow == "slide":
            return NEW_TOKENS if asked is None else asked
        kind = f"{self.model.config.position.type} positions end at max_seq_len {limit}"
        if prompt > limit or (prompt == limit and asked is None):
            raise GptwrightError(
                f"the prompt has {prompt} tokens, but {kind}; shorten the prompt, or let the context slide "
                "(overflow slide)"
            )
        if asked is not None and prompt + asked > limit:
            raise GptwrightError(
                f"the prompt has {prompt} tokens and {asked} new ones were asked for, but {kind}; shorten the prompt, "
                f"ask for at most {limit - prompt} new tokens, or let the context slide (overflow slide)"
            )
        return min(NEW_TOKENS, limit - prompt) if asked is None else asked

    def _writing(self) -> int:
        """Return how many sequences write: all but a last one that is still being read."""
        count = len(self.tickets)
        return count - 1 if count and self._reading(self.tickets[-1]) else count

    def _reading(self, ticket: Ticket) -> bool:
        return not ticket.ids

    def _write(self) -> list[Ticket]:
        tickets = self.tickets[: self._writing()]
        for row, ticket in enumerate(tickets):
            if self.decoder.is_full(row):
                self._slide(row, ticket)
        if len(tickets) == 1 and self.speculation is not None:
            self._guess(tickets[0])
        elif tickets:
            logits = self.decoder.step([ticket.unread[0] for ticket in tickets])
            for row, ticket in enumerate(tickets):
                self._prefixes.fed(row, ticket.unread)
            self._choose(logits, tickets)
        return tickets

    def _guess(self, ticket: Ticket) -> None:
        before, written, pending = self.decoder.lengths[0], len(ticket.ids), ticket.unread
        try:
            self.speculation.advance(self.decoder, 0, ticket, ticket.take)
        except GptwrightError as error:
            ticket.fail(error)
            self._prefixes.clear(0)
            return
        fed = self.decoder.lengths[0] - before
        self._prefixes.fed(0, [*pending, *ticket.ids[written:]][:fed])
        ticket.unread = ticket.ids[-1:]

    def _read(self) -> list[Ticket]:
        """Read on in the prompt that is being read, or begin with the next that waits."""
        if self._writing() == len(self.tickets):
            if not self.waiting or len(self.tickets) == self.decoder.rows:
                return []
            self._join(self.waiting.popleft())
        row, ticket = len(self.tickets) - 1, self.tickets[-1]
        ids = ticket.unread[: self.chunk - self.decoder.lengths[row] % self.chunk]
        logits = self.decoder.extend(row, ids)
        self._prefixes.read(row, ids)
        del ticket.unread[: len(ids)]
        if ticket.unread:
            return []
        read = [ticket, *self._twins(row, ticket)]
        self._choose(logits.expand(len(read), -1), read)
        return read

    def _join(self, ticket: Ticket) -> None:
        limit = self.decoder.limit
        if limit is not None and len(ticket.unread) > limit:
            ticket.unread = list(self.decoder.latest_half(ticket.unread))
        del ticket.unread[: self._prefixes.take_over(len(self.tickets), ticket.unread)]
        self.tickets.append(ticket)

    def _twins(self, row: int, ticket: Ticket) -> list[Ticket]:
        """Let those that wait next with the same prompt take over what has been read, each in a row of its own."""
        twins: list[Ticket] = []
        while self.waiting and len(self.tickets) < self.decoder.rows:
            if list(self.waiting[0].request.ids) != list(ticket.request.ids):
                break
            twins.append(self.waiting.popleft())
            twins[-1].unread.clear()
            self._prefixes.copy(row, len(self.tickets), self.decoder.lengths[row])
            self.tickets.append(twins[-1])
        return twins

    def _choose(self, logits: Tensor, tickets: Sequence[Ticket]) -> None:
        try:
            choices = choose(logits, [ticket.chooser for ticket in tickets])
        except GptwrightError as error:
            if len(tickets) == 1:
                tickets[0].fail(error)
                return
            for row, ticket in enumerate(tickets):
                self._choose(logits[row : row + 1], [ticket])
            return
        for ticket, choice in zip(tickets, choices, strict=True):
            ticket.take(choice)
            ticket.unread = [choice.token]

    def _slide(self, row: int, ticket: Ticket) -> None:
        """Go on from the latest half of the context, read anew."""
        self._prefixes.clear(row)
        if before := self.decoder.latest_half(ticket.text())[:-1]:
            self.decoder.read(row, before, self.chunk)
            self._prefixes.read(row, before)

    def _leave(self) -> None:
        """Let go of what has ended; the rows of those that write stay in one piece."""
        for ticket in [ticket for ticket in self.waiting if ticket.done]:
            self.waiting.remove(ticket)
        for row in reversed(range(len(self.tickets))):
            if self.tickets[row].done:
                self._free(row)

    def _free(self, row: int) -> None:
        last = self._writing() - 1
        if row < last:
            self._move(last, row)
            row = last
        for other in range(row + 1, len(self.tickets)):  # one that is being read
            self._move(other, other - 1)
        self.tickets.pop()

    def _move(self, source: int, target: int) -> None:
        self._prefixes.move(source, target)
        self.tickets[target] = self.tickets[source]


def _check(rows: int, overflow: str, chunk: int) -> None:
    if rows < 1:
        raise GptwrightError(f"rows is {rows}, and must be at least 1: it is how many texts are written at a time")
    if overflow not in ("refuse", "slide"):
        raise GptwrightError(f"overflow is '{overflow}', and must be refuse or slide")
    if chunk < 1:
        raise GptwrightError(f"chunk is {chunk}, and must be at least 1")
