"""What a talk at a terminal needs: lines to edit, an answer that Ctrl-C stops, words in the background."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gptwright.cli.output import say, write


def note(text: str) -> None:
    """Write a line to stderr, dim where it is a terminal."""
    say(f"\033[2m{text}\033[0m" if sys.stderr.isatty() else text)


def shown() -> Callable[[str], str]:
    """Return what makes a piece fit to print: on a terminal, a model's control characters are not obeyed."""
    if not sys.stdout.isatty():
        return str
    from gptwright.train.display import visible

    return visible


def lines(terminal: bool) -> Iterator[str]:
    """Yield lines of stdin until they end; on a terminal they can be edited, and Ctrl-C begins another."""
    if not terminal:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - importing it lets input() edit lines
    while True:
        try:
            yield input("> ")
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            note("\nCtrl-D or /quit leaves")


@contextmanager
def interruptions(wanted: bool) -> Iterator[list[int]]:
    """Yield a list that becomes true at the first Ctrl-C, which then stops nothing else; a second one does.

    So a step that has begun is finished, and the model's states stay whole.
    """
    seen: list[int] = []
    if not wanted:
        yield seen
        return
    before = signal.getsignal(signal.SIGINT)

    def take(number: int, frame: object) -> None:
        del frame
        seen.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, take)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
