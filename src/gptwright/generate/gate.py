"""When guessing ahead pays: decided by measured time, within a budget that no run exceeds by much."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Clock = Callable[[], float]

ALLOWANCE = 0.015
"""Share of a run's time that guesses may lose, all in all."""
_HEAD = 64  # tokens: a run is given the allowance of so many from the start, or of its own length where it is shorter
_WARM = 2  # plain steps that are measured before the first guess
_REFRESH = 64  # guesses in a row, after which a plain step is measured again
_SLOPE = 0.1  # the first guess is taken to cost this part of a plain step more for each token
_FIRST_PAUSE, _LAST_PAUSE = 8, 4096  # steps without a guess after one that was not worth it; doubled each time
_REST = 6  # steps without a look at what could be guessed, after a look at something that would not pay
_FADE = 0.9  # weight of what was known of a kind of guess, after each guess


class Recent:
    """The median of the latest durations."""

    def __init__(self, count: int = 9) -> None:
        self._values: deque[float] = deque(maxlen=count)
        self._median = 0.0

    def add(self, seconds: float) -> None:
        """Take in a duration."""
        self._values.append(seconds)
        self._median = median(self._values)

    def forget(self) -> None:
        """Begin anew."""
        self._values.clear()

    @property
    def seconds(self) -> float:
        """The median, 0 where there is none yet."""
        return self._median

    def __len__(self) -> int:
        return len(self._values)


@dataclass
class Record:
    """How one kind of guess has fared; what is not known yet is taken to be good."""

    hits: float = 2.0
    """Guessed tokens that were right, the latest counting most."""
    tries: float = 2.5
    """Guessed tokens that were looked at."""
    wait: int = 0
    """Steps until the next trial."""
    pause: int = _FIRST_PAUSE
    """Steps to wait after the next failure."""
    trial: bool = False
    """Whether the next guess only looks whether things are better now."""

    def expected(self, length: int) -> float:
        """Return how many tokens a guess of ``length`` is expected to give, the one after it included."""
        rate = self.hits / self.tries
        return sum(rate**n for n in range(length + 1))

    def put_off(self) -> None:
        """Wait before the next trial, each time longer."""
        self.wait, self.pause, self.trial = self.pause, min(2 * self.pause, _LAST_PAUSE), True

    def learn(self, guessed: int, accepted: int, *, paid: bool) -> None:
        """Take in what became of a guess, and whether it saved time."""
        if self.trial and paid and accepted == guessed:
            self.hits, self.tries, self.pause = 2.0, 2.5, _FIRST_PAUSE
        self.trial = False
        self.hits = _FADE * self.hits + accepted
        self.tries = _FADE * self.tries + min(accepted + 1, guessed)


class Gate:
    """Says how many tokens to guess, from what steps cost here and what guesses of this kind brought lately.

    A guess is made while it is expected to save time. Where it is not, another is tried after a pause that doubles
    each time. Whatever happens, the time that guesses have lost in a run stays within ``allowance`` of what plain
    decoding would have taken: a guess whose failure would exceed it is not made.
    """

    def __init__(self, clock: Clock = time.perf_counter, *, allowance: float = ALLOWANCE) -> None:
        self.clock, self.allowance = clock, allowance
        self._plain = Recent()
        self._checks: dict[int, Recent] = {}  # seconds of guessing and checking so many tokens
        self._warmed: set[int] = set()
        self.begin()

    def begin(self, tokens: int | None = None) -> None:
        """Begin a run of at most ``tokens``: costs stay known, the budget and what guesses brought begin anew."""
        self._records: dict[int, Record] = {}
        self._head = _HEAD if tokens is None else min(_HEAD, tokens)
        self._in_a_row = self._rest = 0
        self.needed = 0.0
        """Seconds that plain decoding would have needed so far."""
        self.saved = 0.0
        """Seconds saved by guessing so far, negative where it lost."""

    def length(self, kind: int, most: int, setup: Callable[[int], float] = lambda length: 0.0) -> int:
        """Return how many tokens to guess, at most ``most``; 0 is a plain step. ``kind`` tells guesses apart.

        ``setup`` gives the seconds that a length costs once, before it can be checked.
        """
        if most < 1 or len(self._plain) < _WARM or self._in_a_row >= _REFRESH:
            return 0
        found = self._worthwhile(kind, most, setup)
        self._rest = 0 if found else _REST
        return found

    def rests(self) -> bool:
        """Whether this step is a plain one without a look, as looking costs time too; it is counted as done."""
        if not self._rest:
            return False
        self._rest -= 1
        self.needed += self._plain.seconds
        return True

    def _worthwhile(self, kind: int, most: int, setup: Callable[[int], float]) -> int:
        record = self._records.setdefault(kind, Record())
        if record.wait > 0:
            record.wait -= 1 + _REST
            return 0
        known = max(self._checks, default=0)  # lengths are doubled step by step: costs far from it are unknown
        best = max(lengths(min(most, max(1, 2 * known))), key=lambda length: self._gain(record, length))
        if record.trial:
            best = min(best, 2)
        elif self._gain(record, best) <= 0:
            record.put_off()
            return 0
        return best if self._affordable(best, setup(best)) else 0

    def stepped(self, seconds: float) -> None:
        """Take in the duration of a plain step."""
        self._plain.add(seconds)
        self._in_a_row = 0
        self.needed += self._plain.seconds

    def checked(self, kind: int, guessed: int, accepted: int, seconds: float) -> None:
        """Take in a guess of ``guessed`` tokens, of which ``accepted`` were right: it gave one token more."""
        times = self._checks.setdefault(guessed, Recent())
        if guessed not in self._warmed and len(times):
            times.forget()  # the first of a length also paid for what is set up once
            self._warmed.add(guessed)
        times.add(seconds)
        plain = (accepted + 1) * self._plain.seconds
        self.needed += plain
        self.saved += plain - seconds
        self._in_a_row += 1
        record = self._records.setdefault(kind, Record())
        failed = record.trial and seconds > plain
        record.learn(guessed, accepted, paid=seconds <= plain)
        if failed:
            record.put_off()

    def _gain(self, record: Record, length: int) -> float:
        """Return the seconds that a guess is expected to save."""
        return record.expected(length) * self._plain.seconds - self._cost(length)

    def _cost(self, length: int) -> float:
        """Return the seconds of a guess of ``length``, from the nearest length that was measured."""
        plain = self._plain.seconds
        if not self._checks:
            return plain * (1 + _SLOPE * length)
        known = min(self._checks, key=lambda other: abs(other - length))
        beyond = max(0.0, self._checks[known].seconds - plain) / known
        return self._checks[known].seconds + beyond * (length - known)

    def _affordable(self, length: int, setup: float) -> bool:
        """Return whether the run stays within its allowance if nothing of the guess is right."""
        plain = self._plain.seconds
        allowed = self.allowance * max(self.needed, self._head * plain)
        return self.saved - (self._cost(length) + setup - plain) >= -allowed


def lengths(most: int) -> list[int]:
    """Return the lengths to choose from: few, so that each is soon known."""
    found = [length for length in (1, 2, 4, 8, 16, 32) if length < most]
    return [*found, most]
