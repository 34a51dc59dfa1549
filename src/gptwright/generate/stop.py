"""Stop strings, found across the borders of pieces: what might begin one is held back until it is decided."""

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the stop string that is complete first; of that nothing is given out.

    Where two become complete at the same character, the longer one counts. What comes out does not depend on how
    the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        """The stop string that was met."""
        self._held = ""

    def push(self, piece: str) -> str:
        """Take in more text; return what is certain to come before any stop string."""
        if self.found is not None:
            return ""
        text = self._held + piece
        met = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self.stops if stop in text]
        if met:
            end, _, self.found = min(met)
            self._held = ""
            return text[: end - len(self.found)]
        kept = len(text) - self._open(text)
        self._held = text[kept:]
        return text[:kept]

    def flush(self) -> str:
        """Return what was held back: the text has ended, so it began no stop string."""
        held, self._held = self._held, ""
        return held

    def _open(self, text: str) -> int:
        """Return how many characters at the end of ``text`` may begin a stop string."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        return next(
            (size for size in range(min(longest, len(text)), 0, -1) if self._begins(text[len(text) - size :])), 0
        )

    def _begins(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self.stops)
