"""Pairs of a context and a continuation, put together by what they share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gptwright.errors import GptwrightError
from gptwright.evaluate.scoring import Row

WORTH = 128
"""Tokens that reading a common beginning once must save, to be done."""

Ids = tuple[int, ...]


@dataclass
class Context:
    """A context with the continuations that are asked for after it."""

    ids: Ids
    """At least one token."""
    asked: dict[Ids, int] = field(default_factory=dict)
    """Each continuation, at least one token, with the slot that it is added to."""

    @property
    def forks(self) -> bool:
        """Whether something is to be read after the context by more than one continuation."""
        return len(self.asked) > 1 and any(len(continuation) > 1 for continuation in self.asked)

    @property
    def alone(self) -> Row | None:
        """The whole as one row, where there is a single continuation."""
        if len(self.asked) > 1:
            return None
        ((continuation, slot),) = self.asked.items()
        return Row((*self.ids, *continuation[:-1]), continuation, [slot] * len(continuation))


@dataclass
class Cluster:
    """Contexts that begin alike."""

    contexts: list[Context]
    shared: int = 0
    """Tokens of their beginning that are read once."""

    @property
    def saved(self) -> int:
        """Tokens that need not be read."""
        return self.shared * (len(self.contexts) - 1)


def grouped(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], limit: int) -> tuple[list[Context], list[int]]:
    """Return the different contexts with their continuations, and the slot of each pair."""
    contexts: dict[Ids, Context] = {}
    slots: list[int] = []
    found = 0
    for before, after in pairs:
        context, continuation = _cut(tuple(before), tuple(after), limit)
        asked = contexts.setdefault(context, Context(context)).asked
        if continuation not in asked:
            asked[continuation] = found
            found += 1
        slots.append(asked[continuation])
    return list(contexts.values()), slots


def _cut(context: Ids, continuation: Ids, limit: int) -> tuple[Ids, Ids]:
    """Take from the beginning of a context what has no room; the last token is predicted, and not read."""
    if not context or not continuation:
        empty = "continuation" if context else "context"
        raise GptwrightError(
            f"the {empty} of a request has no token, so there is nothing to score; give it text that its tokenizer "
            "does not join with its neighbour"
        )
    if len(continuation) > limit:
        raise GptwrightError(
            f"a continuation has {len(continuation)} tokens and the model reads {limit} at most (max_seq_len); "
            "shorten it, or score it as rolling text"
        )
    return context[-(limit + 1 - len(continuation)) :], continuation


def clusters(contexts: Sequence[Context]) -> Iterator[Cluster]:
    """Yield contexts with beginnings that are worth reading once, and all others together."""
    others = Cluster([])
    for found in _alike(sorted(contexts, key=lambda context: context.ids)):
        if found.saved >= WORTH:
            yield found
        else:
            others.contexts += found.contexts
    if others.contexts:
        yield others


def _alike(ordered: Sequence[Context]) -> Iterator[Cluster]:
    """Cut sorted contexts where taking in the next one costs more of the beginning than it saves."""
    current: Cluster | None = None
    for context in ordered:
        if current is not None:
            common = _common(current.contexts[-1].ids, context.ids)
            shared = min(current.shared, common)
            if (current.shared - shared) * (len(current.contexts) - 1) < shared:
                current.contexts.append(context)
                current.shared = shared
                continue
            yield current
        current = Cluster([context], len(context.ids) - 1)  # its last token is read for what it predicts
    if current is not None:
        yield current


def _common(first: Ids, second: Ids) -> int:
    """Return how many tokens two contexts begin with alike, the last token of either not counted."""
    low, high = 0, min(len(first), len(second)) - 1
    while low < high:  # slices compare at the speed of C, tokens one by one do not
        middle = (low + high + 1) // 2
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle - 1)
    return low
