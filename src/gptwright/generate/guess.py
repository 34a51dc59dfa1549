"""Where guesses of the next tokens come from: the text itself, or a smaller model."""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

from gptwright.generate.choose import Chooser, choose
from gptwright.generate.engine import Ticket
from gptwright.model.decoder import Decoder
from gptwright.model.gpt import GPT


class Guesser(Protocol):
    """What guesses."""

    length: int
    """Tokens to guess at most."""

    def begin(self, ticket: Ticket) -> None:
        """Turn to another text."""
        ...

    def look(self, ids: Sequence[int]) -> int | None:
        """Return which kind of guess could be made of what follows ``ids``, None if none."""
        ...

    def guess(self, ids: Sequence[int], length: int) -> list[int]:
        """Return at most ``length`` tokens that may follow ``ids``, after `look` at the same ids."""
        ...


class PromptLookup:
    """Guesses that the text goes on as it did the last time its latest tokens stood there.

    Saxena (2023), https://github.com/apoorvumang/prompt-lookup-decoding. The kind of a guess is the number of
    tokens that matched. An index of all runs of tokens grows with the text: the work a token is constant.
    """

    def __init__(self, max_ngram: int = 3, length: int = 10) -> None:
        self.max_ngram, self.length = max_ngram, length
        self._ends: dict[tuple[int, ...], int] = {}  # a run of tokens to where its latest occurrence ended
        self._indexed = 0  # every run that ends at or before this place is in the index
        self._found = 0

    def begin(self, ticket: Ticket) -> None:
        """Turn to another text."""
        del ticket
        self._ends, self._indexed = {}, 0

    def look(self, ids: Sequence[int]) -> int | None:
        """Return how many of the latest ``ids`` stood in the text before, at most `max_ngram`; None if not one."""
        for end in range(self._indexed + 1, len(ids)):  # not the latest end: a run may not match itself
            for size in range(1, min(self.max_ngram, end) + 1):
                self._ends[tuple(ids[end - size : end])] = end
        self._indexed = max(self._indexed, len(ids) - 1)
        for size in range(min(self.max_ngram, len(ids)), 0, -1):
            found = self._ends.get(tuple(ids[len(ids) - size :]))
            if found is not None:
                self._found = found
                return size
        return None

    def guess(self, ids: Sequence[int], length: int) -> list[int]:
        """Return what followed last time; where the text ends before ``length``, it is taken to repeat itself."""
        period = len(ids) - self._found
        return [ids[self._found + n % period] for n in range(length)]


class Draft:
    """Guesses what a smaller model would write with the same settings and the same random numbers.

    Leviathan et al. (2023), https://arxiv.org/abs/2211.17192, but for the draw: here a guess is right if the target
    draws the same token from its own probabilities with its own random number, and so no distribution is changed.
    """

    def __init__(self, model: GPT, length: int = 6) -> None:
        self.length = length
        self._decoder = Decoder(model, rows=1)
        self._bounded = bounded(model)
        self._ticket: Ticket | None = None
        self._agreed = 0  # tokens fed that are known to be in the text
        self._tail: list[int] = []  # guesses fed after them
        self._snapshot: Any = None

    def begin(self, ticket: Ticket) -> None:
        """Turn to another text."""
        self._decoder.clear(0)
        self._ticket, self._agreed, self._tail, self._snapshot = ticket, 0, [], None

    def look(self, ids: Sequence[int]) -> int | None:
        """Return 0 where the draft has room for a guess."""
        limit = self._decoder.limit
        return 0 if limit is None or len(ids) + self.length <= limit else None

    def guess(self, ids: Sequence[int], length: int) -> list[int]:
        """Return the draft's own continuation of ``ids``."""
        assert self._ticket is not None
        self._return_to(ids)
        logits = self._decoder.extend(0, list(ids[self._agreed :]))
        self._agreed = len(ids)
        self._snapshot = self._decoder.snapshot(0) if self._bounded and length > 1 else None
        chooser, found = twin(self._ticket), []
        while True:
            found.append(choose(logits[None], [chooser])[0].token)
            if len(found) == length:
                return found
            self._tail.append(found[-1])
            logits = self._decoder.extend(0, found[-1:])

    def _return_to(self, ids: Sequence[int]) -> None:
        """Forget guesses that did not become text, and always leave a token to be fed."""
        right = 0
        while right < len(self._tail) and self._agreed + right < len(ids) - 1:
            if self._tail[right] != ids[self._agreed + right]:
                break
            right += 1
        length = self._agreed + right
        if right == len(self._tail):
            pass
        elif self._decoder.can_rewind(0, length):
            self._decoder.rewind(0, length)
        else:
            self._decoder.restore(0, self._snapshot)
            length = self._agreed
        self._agreed, self._tail = length, []


def bounded(model: GPT) -> bool:
    """Return whether some layer's state does not grow with the text: such a state cannot go back, or not for ever."""
    config, far = model.config, 1 << 24
    parts = [(config.layer(index)[0], config.context(index)) for index in range(config.n_layers)]
    return any(part.state_bytes(ctx, 2 * far) <= part.state_bytes(ctx, far) for part, ctx in parts)


def twin(ticket: Ticket) -> Chooser:
    """Return a copy of what chooses the tokens of ``ticket``; what a constraint forbids is left to the original."""
    chooser, shared = ticket.chooser, (ticket.request.ids, ticket.request.sampling)
    return copy.deepcopy(chooser, {id(chooser.constraint): None, **{id(each): each for each in shared}})
