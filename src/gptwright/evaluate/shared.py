"""Continuations of contexts, each token that several of them share computed once.

Multiple-choice questions come as many pairs of a context and a continuation. Contexts with a long common beginning
(the worked examples of few-shot prompts) read it once; then what remains of each context is read once; then its
continuations, one after the other, each from the states at the end of its context. A continuation of a single token
costs nothing but its logit. It works for every mixer: states are copied, or go back where they can.

Shapes: R rows, T columns.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from gptwright.errors import Unsupported
from gptwright.evaluate.clusters import Cluster, Context, clusters, grouped
from gptwright.evaluate.scoring import ROOM, Row, Totals, Wanted, batches, padded, score_rows
from gptwright.model.gpt import GPT
from gptwright.model.states import ModelStates

HELD = 1 << 30
"""Bytes of decode states that are held at once, unless a single row needs more."""

Done = Callable[[int], Any]


def score_pairs(
    model: GPT,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    limit: int,
    most: int | None = None,
    done: Done | None = None,
) -> list[tuple[float, bool]]:
    """Return the log-probability of each continuation after its context, and whether greedy decoding writes it.

    Args:
        model: the model, inside `scoring`.
        pairs: token ids of contexts and continuations; contexts too long for ``limit`` lose their beginning.
        limit: tokens that the model reads at most.
        most: rows that are fed at once, at most; by default as many as fill some thousand tokens.
        done: called with the number of pairs that have been scored since it was called before.

    Raises:
        GptwrightError: a context or continuation has no token, or a continuation has more than ``limit``.
    """
    contexts, slots = grouped(pairs, limit)
    totals = Totals(max(slots, default=-1) + 1)
    for cluster in clusters(contexts):
        _Reader(model, cluster, totals, most).read()
        if done is not None:
            done(sum(len(context.asked) for context in cluster.contexts))
    return [(float(totals.logprobs[slot]), bool(totals.greedy[slot])) for slot in slots]


class _Reader:
    """Scores one cluster."""

    def __init__(self, model: GPT, cluster: Cluster, totals: Totals, most: int | None) -> None:
        self.model, self.cluster, self.totals, self.most = model, cluster, totals, most
        self.shared = cluster.shared if len(cluster.contexts) > 1 else 0
        self._prefix: ModelStates | None = None
        self._spread: ModelStates | None = None

    def read(self) -> None:
        """Score every continuation."""
        contexts = self.cluster.contexts
        if not self.shared:
            alone = [row for context in contexts if (row := context.alone) is not None]
            score_rows(self.model, alone, self.totals, most=self.most)
            contexts = [context for context in contexts if context.alone is None]
        if not contexts:
            return
        rows = [self._row(context) for context in contexts]
        for numbers in batches([len(row) for row in rows], most=self._most(contexts)):
            self._read([contexts[number] for number in numbers], [rows[number] for number in numbers])

    def _row(self, context: Context) -> Sequence[int]:
        row = context.alone
        return (context.ids if row is None else row.ids)[self.shared :]

    def _most(self, contexts: list[Context]) -> int:
        """Return how many rows have room for their states."""
        longest = max(self._length(context) for context in contexts)
        one = self.model.init_states(1, longest)
        if self.shared:
            self._prefix = one
            self._feed([contexts[0].ids[: self.shared]], one)
        held = max(1, HELD // max(1, 2 * one.nbytes))  # twice: at the end of contexts, and with a continuation
        return min(held, self.most or ROOM)

    def _length(self, context: Context) -> int:
        return len(context.ids) + max(len(continuation) for continuation in context.asked)

    def _read(self, contexts: list[Context], rows: list[Sequence[int]]) -> None:
        """Read what remains of some contexts, and then what follows them."""
        forks = any(context.forks for context in contexts)
        states = self._states(len(rows), max(map(self._length, contexts))) if forks or self.shared else None
        wanted = Wanted()
        for number, (context, row) in enumerate(zip(contexts, rows, strict=True)):
            if (alone := context.alone) is not None:
                wanted.ask_row(number, len(row), alone.targets, alone.slots)
            else:
                first = [continuation[0] for continuation in context.asked]
                wanted.ask(number, len(row) - 1, first, list(context.asked.values()))
        wanted.add_to(self.totals, self.model, self._feed(rows, states, goes_on=forks))
        if states is not None and forks:
            self._continue(contexts, states)
        self._spread = _back(states, self.shared) if states is not None and self.shared else None

    def _states(self, rows: int, length: int) -> ModelStates:
        """Return states of rows that have read the common beginning."""
        if self._prefix is None:
            return self.model.init_states(rows, length)
        if self._spread is not None and self._spread.batch == rows:
            return self._spread
        return self._prefix.select([0] * rows)

    def _continue(self, contexts: list[Context], states: ModelStates) -> None:
        """Read the continuations of every context, a round one of each, the longest of each first."""
        queues = [_longer(context) for context in contexts]
        branch: ModelStates | None = None
        while any(queues):
            rows = [queue.pop(0) if queue else None for queue in queues]
            chosen = [number for number, row in enumerate(rows) if row is not None]
            going = [row for row in rows if row is not None]
            if len(going) < len(rows):  # some have no continuation left
                states, queues, branch = states.select(chosen), [queues[number] for number in chosen], None
            if branch is None:
                branch = states.select(list(range(len(going)))) if any(queues) else states
            wanted = Wanted()
            for number, row in enumerate(going):
                wanted.ask_row(number, len(row.ids), row.targets, row.slots)
            hidden = self._feed([row.ids for row in going], branch, goes_on=not branch.plain)
            wanted.add_to(self.totals, self.model, hidden)
            branch = _back(branch, states.length)

    def _feed(self, rows: Sequence[Sequence[int]], states: ModelStates | None, *, goes_on: bool = False) -> Tensor:
        """Return the vectors (R, T, D) of ``rows``; padding counts as no token where something ``goes_on`` after it."""
        ids, mask = padded(rows, self.model.device)
        seq = self.model.describe(ids, mask if goes_on else None, None, states)
        return self.model.hidden(ids, seq, states)


def _longer(context: Context) -> list[Row]:
    """Return what is read after a context, longest first: all but the last token of each longer continuation."""
    if context.alone is not None:
        return []
    longer = sorted((item for item in context.asked.items() if len(item[0]) > 1), key=lambda item: -len(item[0]))
    return [Row(ids[:-1], ids[1:], [slot] * (len(ids) - 1)) for ids, slot in longer]


def _back(states: ModelStates, length: int) -> ModelStates | None:
    """Return ``states`` as they were after ``length`` tokens, or None where some layer cannot go back."""
    if states.length == length:
        return states
    try:
        states.truncate(length)
    except Unsupported:
        return None
    return states
