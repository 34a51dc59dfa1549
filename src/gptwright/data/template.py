"""How a chat is written as text: the same when a model learns from it and when it is asked to answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gptwright.errors import DataError

TEMPLATES = {
    "chatml": "<|im_start|>{role}\n{content}<|im_end|>\n",
    "plain": "{role}: {content}\n",
    "headings": "### {role}\n{content}\n\n",
}
"""The templates that have a name. Their special strings are text like any other: no tokenizer has to know them."""

ROLES = ("system", "user", "assistant", "tool")
"""Who can speak."""

ANSWERS = "assistant"
"""Whose words are learnt."""


class Span(NamedTuple):
    """A stretch of a document that is tokenized on its own."""

    text: str
    learn: bool
    """Whether its tokens count in the loss."""
    marked: tuple[tuple[int, int], ...] | None = None
    """Of text in which special tokens are control ids: the stretches that are learnt, from character to character."""


@dataclass(frozen=True)
class Template:
    """What stands before and after the content of each message; ``{role}`` in it becomes the speaker.

    Those in Jinja are of another class, `gptwright.data.jinja.JinjaTemplate`, with the same `spans` and `stops`.
    """

    text: str

    @classmethod
    def named(cls, name: str) -> "Template":
        """Return a template by name, or make one of text that holds {role} and {content} once each.

        Raises:
            DataError: it is neither.
        """
        text = TEMPLATES.get(name, name)
        if text.count("{content}") != 1 or "{role}" not in text.partition("{content}")[0]:
            raise DataError(
                f"data.template {name!r:.80} is none of {', '.join(TEMPLATES)}, and as a template of your own it must "
                "hold {role} and after it, once, {content} (or be Jinja, a .jinja file, or tokenizer for its own)"
            )
        return cls(text)

    def opening(self, role: str) -> str:
        """Return what stands before the words of ``role``."""
        return self.text.partition("{content}")[0].replace("{role}", role)

    def closing(self, role: str) -> str:
        """Return what stands after the words of ``role``: the end mark."""
        return self.text.partition("{content}")[2].replace("{role}", role)

    @property
    def stops(self) -> tuple[str, ...]:
        """What ends an answer: the end mark, or the words that open the next turn where there is none."""
        closing = self.closing(ANSWERS)
        mark = (closing.rstrip() or closing) or self.opening("user")
        return (mark,) if mark else ()

    def spans(self, messages: Sequence[Mapping[str, str]], *, reply: bool = False) -> list[Span]:
        """Return a chat as spans: answers with their end mark are learnt, everything between them is one span.

        ``reply`` opens an answer at the end, for a model to go on. Tokenize each span alone and join the ids
        (`gptwright.data.template.encode`): then a prompt reads exactly as it did in training.
        """
        told = [Span(text, learn) for message in messages for text, learn in self._message(message)]
        if reply:
            told.append(Span(self.opening(ANSWERS), learn=False))
        return _joined(told)

    def _message(self, message: Mapping[str, str]) -> list[tuple[str, bool]]:
        role, answers = message["role"], message["role"] == ANSWERS
        return [(self.opening(role), False), (message["content"] + self.closing(role), answers)]


def encode(tokenizer, spans: Sequence[Span]) -> list[int]:
    """Return the ids of ``spans``, each tokenized alone, as training data is, without what texts begin with."""
    if any(span.marked is not None for span in spans):
        return [id for span in spans for id in tokenizer.encode_marked(span.text).tolist()]
    return [int(id) for ids in tokenizer.encode_batch([span.text for span in spans]) for id in ids]


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Join neighbours that are learnt alike, and leave out empty ones."""
    found: list[Span] = []
    for span in spans:
        if span.text and found and found[-1].learn == span.learn:
            found[-1] = Span(found[-1].text + span.text, span.learn)
        elif span.text:
            found.append(span)
    return found
