"""A talk in token ids: each prompt goes on exactly where the last answer ended, so that nothing is read twice."""

from dataclasses import dataclass, field

from gptwright.data.chat_template import AnyTemplate
from gptwright.data.jinja import JinjaTemplate
from gptwright.data.template import ANSWERS, Template, encode
from gptwright.errors import DataError, GptwrightError
from gptwright.tokenizer.base import Tokenizer


@dataclass
class Turn:
    """What was said, and what was answered."""

    said: str
    prompt: list[int]
    """Ids of what was said with all that stands around it, up to where the answer begins."""
    answered: str = ""
    answer: list[int] = field(default_factory=list)
    """Ids of the answer with its end mark: those that were written, not those of the text encoded anew."""


class Conversation:
    """Turns that share a context of so many tokens.

    With a template turns are written as in training; without one, what is said is continued as text. When the context
    is full the oldest turns are left out, whole; the system's message stays.
    """

    def __init__(
        self, tokenizer: Tokenizer, context: int, template: AnyTemplate | None = None, system: str | None = None
    ) -> None:
        if system is not None and template is None:
            raise GptwrightError("there is no chat template, and so no place for a system message; give --template")
        self.tokenizer, self.context, self.template, self.system = tokenizer, context, template, system
        self.turns: list[Turn] = []
        self._between = "" if template else _separator(tokenizer)

    @property
    def stops(self) -> tuple[str, ...]:
        """What ends an answer, as the template writes it."""
        return () if self.template is None else self.template.stops

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: those that end a text."""
        return self.tokenizer.end_ids

    def say(self, text: str, reserve: int) -> tuple[list[int], int]:
        """Add a turn; return the ids that the model goes on from, and how many old turns were left out.

        ``reserve`` tokens are kept for the answer, at most a quarter of the context.

        Raises:
            GptwrightError: the turn has no room even alone, or says nothing that can be continued.
            DataError: the tokenizer cannot say it.
        """
        alone = self._prompt(text, first=True)
        if not alone:
            raise GptwrightError("there is nothing to go on from; say something")
        if len(alone) >= self.context:
            raise GptwrightError(
                f"this has {len(alone)} tokens and the model's context is {self.context}, which leaves no room for an "
                "answer; say it in fewer words"
            )
        kept = [*self.turns, Turn(text, self._prompt(text, first=not self.turns))]
        reserve = min(reserve, max(1, self.context // 4))
        while len(kept) > 1 and len(self._ids(kept)) + reserve > self.context:
            kept = kept[1:]
            kept[0] = Turn(kept[0].said, self._prompt(kept[0].said, first=True), kept[0].answered, kept[0].answer)
        dropped = len(self.turns) + 1 - len(kept)
        self.turns = kept
        return self._ids(kept), dropped

    def answered(self, text: str, ids: list[int]) -> None:
        """Take in the answer to the latest turn: its text, and the ids that were written for it."""
        turn = self.turns[-1]
        turn.answered, turn.answer = text, [*ids, *self._end_mark(text, ids)]
        if isinstance(self.template, Template) and not self.template.closing(ANSWERS):
            turn.answer = self.tokenizer.encode(text).tolist()  # without the words of the next turn that ended it

    def unsay(self) -> None:
        """Take back the latest turn, to which there is no answer."""
        self.turns.pop()

    def reset(self) -> None:
        """Forget all turns."""
        self.turns = []

    def messages(self) -> list[dict[str, str]]:
        """Return the talk as a list of messages, as training on chats reads it."""
        return self._messages(self.turns)

    def _messages(self, turns: list[Turn]) -> list[dict[str, str]]:
        found = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in turns:
            found += [{"role": "user", "content": turn.said}, {"role": ANSWERS, "content": turn.answered}]
        return found

    def _ids(self, turns: list[Turn]) -> list[int]:
        """Return the ids of a talk that ends with something to be answered.

        A Jinja template is a program, which may write a turn otherwise when others follow it: it writes the talk anew.
        """
        if isinstance(self.template, JinjaTemplate):
            return encode(self.tokenizer, self.template.spans(self._messages(turns)[:-1], reply=True))
        return [id for turn in turns for id in (*turn.prompt, *turn.answer)]

    def _prompt(self, text: str, *, first: bool) -> list[int]:
        if isinstance(self.template, JinjaTemplate):
            return self._ids([Turn(text, [])])
        prefix = list(self.tokenizer.prefix_ids) if first else []
        if self.template is None:
            own = self.tokenizer.encode(text if first else self._between + text).tolist()
            return [*prefix, *own] if own else []
        messages = [{"role": "user", "content": text}]
        if first and self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return [*prefix, *encode(self.tokenizer, self.template.spans(messages, reply=True))]

    def _end_mark(self, text: str, ids: list[int]) -> list[int]:
        """Return the ids of what is missing of the end mark after what was written."""
        if not isinstance(self.template, Template):
            return []
        closing, written = self.template.closing(ANSWERS), self.tokenizer.decode(ids)
        beyond = written[len(text) :] if written.startswith(text) else ""
        missing = closing.removeprefix(beyond) if closing.startswith(beyond) else ""
        return self.tokenizer.encode(missing).tolist() if missing else []


def _separator(tokenizer: Tokenizer) -> str:
    """Return what stands between turns without a template: a line break, or what the tokenizer can say."""
    for text in ("\n", " "):
        try:
            tokenizer.encode(text)
        except DataError:
            continue
        return text
    return ""
