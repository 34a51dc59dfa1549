"""What is to be continued, and how far it has come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gptwright.errors import GptwrightError
from gptwright.generate.choose import Allowing, Choice, Chooser
from gptwright.generate.sampling import Sampling


@dataclass(frozen=True)
class Request:
    """What is to be continued, and how."""

    ids: Sequence[int]
    """Token ids of the prompt, at least one."""
    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are drawn and when the continuation ends."""
    seed: int | None = None
    """Makes the draw repeatable; by default `sampling.seed`, or else another one each time."""
    sample: int = 0
    """Number of this continuation among those of one prompt: each draws its own tokens from one seed."""
    end_ids: Sequence[int] = ()
    """Tokens that end a text: they end the continuation and are not part of it."""
    constraint: Allowing | None = None
    """What may come next, if not everything; see `gptwright.generate.constraint`."""
    on_token: "Callable[[Ticket, Choice], bool | None] | None" = None
    """Called with each new token; True ends the continuation after it."""


class Ticket:
    """A request on its way: what has been written so far, and why it ended."""

    def __init__(self, request: Request, chooser: Chooser, room: int) -> None:
        self.request, self.chooser = request, chooser
        self.room = room
        """New tokens at most."""
        self.ids: list[int] = []
        """New token ids."""
        self.choices: list[Choice] = []
        """How each of them was chosen."""
        self.finish_reason: str | None = None if room else "length"
        """``stop``, ``length``, ``cancelled`` or ``error``; None while it goes on."""
        self.error: GptwrightError | None = None
        """Why it could not go on."""
        self.unread = list(request.ids)
        """Ids that the model has not been fed yet."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.finish_reason is not None

    def cancel(self) -> None:
        """End it before the next step."""
        if not self.done:
            self.finish_reason = "cancelled"

    def fail(self, error: GptwrightError) -> None:
        """End it because of an error."""
        self.error, self.finish_reason = error, "error"

    def take(self, choice: Choice) -> bool:
        """Take in a new token; return whether it is the last."""
        request, sampling = self.request, self.request.sampling
        if not sampling.ignore_end and choice.token in request.end_ids:
            self.finish_reason = "stop"
            return True
        self.ids.append(choice.token)
        self.choices.append(choice)
        stopped = request.on_token is not None and request.on_token(self, choice)
        if self.done:  # cancelled by what was called
            return True
        finished = request.constraint is not None and request.constraint.finished
        if stopped or finished or choice.token in sampling.stop_ids:
            self.finish_reason = "stop"
        elif len(self.ids) >= self.room:
            self.finish_reason = "length"
        return self.done

    def text(self) -> list[int]:
        """Return the ids of prompt and continuation."""
        return [*self.request.ids, *self.ids]
