"""Chat templates as Hugging Face writes them: Jinja text, rendered where it can reach nothing.

A template comes with a model from anywhere, so it is a program of a stranger. It runs in jinja2's immutable sandbox,
with the settings and the few functions that transformers gives it, and sees nothing but the chat and special tokens.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import Template as Compiled
from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from gptwright.data.template import ANSWERS, Span
from gptwright.errors import DataError

# Marks around what {% generation %} writes, in a second rendering only: characters that Unicode keeps for a program's
# own use, and that no text may hold.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_PROBE = "\ufdd2"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

Chat = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class JinjaTemplate:
    """A chat template in Jinja; special tokens that it names are set at its beginning (`with_tokens`)."""

    text: str

    @classmethod
    def with_tokens(cls, text: str, tokens: Mapping[str, str]) -> "JinjaTemplate":
        """Return the template ``text`` with the special ``tokens`` (such as ``eos_token``) that it may name."""
        used = {name: token for name, token in sorted(tokens.items()) if name in text}
        first = "".join(f"{{% set {name} = {literal(token)} %}}" for name, token in used.items())
        return cls(f"{first}\n{text}" if first else text)  # the line break goes with the block before it

    def render(self, messages: Chat, *, reply: bool = False) -> str:
        """Return the chat as text; ``reply`` opens an answer at its end, for a model to go on.

        Raises:
            DataError: the template is damaged, refuses the chat, or does what the sandbox forbids.
        """
        return self._render(messages, reply=reply)

    def spans(self, messages: Chat, *, reply: bool = False) -> list[Span]:
        """Return the chat as one span, which knows where its answers stand; with ``reply`` it is a prompt.

        Answers are what the template's ``{% generation %}`` blocks write, or without such blocks what each message of
        the assistant adds to the chat before it.

        Raises:
            DataError: the template cannot write the chat, or not so that the answers can be told from the rest.
        """
        text = self.render(messages, reply=reply)
        marked = () if reply else tuple(self._answers(messages, text))
        return [Span(text, learn=True, marked=marked)] if text else []

    @cached_property
    def stops(self) -> tuple[str, ...]:
        """The end mark of an answer, without white space around it; none where the template writes none."""
        chat = [{"role": "user", "content": "a"}, {"role": ANSWERS, "content": _PROBE}]
        try:
            found = self.render(chat).partition(_PROBE)[2].strip()
        except DataError:
            return ()
        return (found,) if found else ()

    def _answers(self, messages: Chat, text: str) -> Iterator[tuple[int, int]]:
        if _GENERATION.search(self.text):
            yield from self._generated(messages, text)
            return
        for number, message in enumerate(messages):
            if message["role"] == ANSWERS:
                yield self._added(messages, number, text)

    def _added(self, messages: Chat, number: int, text: str) -> tuple[int, int]:
        """Return where answer ``number`` stands: what it adds to the chat before it, opened for an answer."""
        before = self.render(messages[:number], reply=True) if number else ""
        after = text if number + 1 == len(messages) else self.render(messages[: number + 1])
        if not number or not after.startswith(before) or not text.startswith(after):
            raise DataError(
                f"the chat template does not write message {number + 1}, an answer, as an addition to the messages "
                "before it, so what is to be learnt cannot be told from the rest: begin chats with a user's message, "
                "mark answers in the template with {% generation %} and {% endgeneration %}, or give another "
                "data.template"
            )
        return len(before), len(after)

    def _generated(self, messages: Chat, text: str) -> Iterator[tuple[int, int]]:
        marked = self._render(messages, reply=False, mark=True)
        if re.sub(f"[{_OPEN}{_CLOSE}]", "", marked) != text:
            raise DataError(
                "the chat template changes what its {% generation %} blocks have written, so answers cannot be found "
                "in it: put the blocks around what is written last"
            )
        place = start = 0
        for part in re.split(f"([{_OPEN}{_CLOSE}])", marked):
            if part == _OPEN:
                start = place
            elif part == _CLOSE:
                yield start, place
            else:
                place += len(part)

    def _render(self, messages: Chat, *, reply: bool, mark: bool = False) -> str:
        chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
        chat = json.loads(json.dumps(chat, default=_placeholder))  # plain data only, and never the caller's own
        try:
            compiled = _compiled(self.text)
            return compiled.render(
                messages=chat, tools=None, documents=None, add_generation_prompt=reply, **({MARK: True} if mark else {})
            )
        except TemplateError as error:
            where = f", line {error.lineno}" if getattr(error, "lineno", None) else ""  # pyright: ignore[reportAttributeAccessIssue] - of syntax errors
            raise DataError(
                f"the chat template cannot write this chat ({type(error).__name__}{where}: {error!s:.200}): change the "
                "chat, or give another data.template"
            ) from None
        except Exception as error:  # whatever Python raises for what the template computes
            raise DataError(
                f"the chat template fails on this chat ({type(error).__name__}: {error!s:.200}): change the chat, or "
                "give another data.template"
            ) from None


MARK = "_mark_generation"
"""The variable that says whether generation blocks are to be marked."""


def _placeholder(value: Any) -> str:
    """Stand for a value that JSON does not know, whose methods a template must not reach."""
    return f"<{type(value).__name__}>"


class _Generation(Extension):
    """The block ``{% generation %}``, which says that the model writes what is in it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marking = nodes.Name(MARK, "load")
        return nodes.CallBlock(self.call_method("_written", [marking]), [], [], body).set_lineno(line)

    def _written(self, marking: Any, caller: Macro) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}" if marking is True else caller()


class _Names(Namespace):
    """The templates' ``namespace``, without names that Python keeps for itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *others = args  # so that a template may set a name `self`
        given = dict(*others, **kwargs)
        for name in given:
            _check_name(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace may not hold the name {name!r}, which begins with an underscore")


class _Dict:
    """The templates' ``dict``: makes one, and has no other way into Python."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


@lru_cache(maxsize=16)
def _compiled(text: str) -> Compiled:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": _now,
        "namespace": _Names,
        "dict": _Dict(),
    }
    return environment.from_string(text)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Write JSON as it is; jinja2's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().astimezone().strftime(format)


def literal(text: str) -> str:
    """Return ``text`` as a string of Jinja's language."""
    return json.dumps(text)
