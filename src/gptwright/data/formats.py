"""What a row of JSONL, Parquet or a dataset means: a text, a prompt with its completion, or a chat."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from gptwright.config.report import did_you_mean
from gptwright.data.chat_template import chat_template
from gptwright.data.config import DataConfig, PartConfig
from gptwright.data.template import ANSWERS, ROLES, Span
from gptwright.errors import DataError


class Format(ABC):
    """Turns rows into the spans of documents."""

    is_text = False
    """Whether a plain text is a document too."""

    def __init__(self, config: DataConfig, part: PartConfig) -> None:
        self.config, self.part = config, part

    @property
    @abstractmethod
    def fields(self) -> tuple[str, ...]:
        """The keys that a row needs."""

    @abstractmethod
    def spans(self, row: Mapping[str, Any], place: str) -> list[Span]:
        """Return the spans of one row, none when it is empty; ``place`` says where it stands.

        Raises:
            DataError: something is missing or wrong; the place and the rule are named.
        """


class Text(Format):
    """The text of one field."""

    is_text = True

    @property
    def fields(self) -> tuple[str, ...]:
        """The field of the text."""
        return (str(self.part.text_field),)

    def spans(self, row: Mapping[str, Any], place: str) -> list[Span]:
        """Return the text."""
        (field,) = self.fields
        text = _text(_value(row, field, "data.text_field", place), field, place, "set data.text_field")
        return [Span(text, learn=True)] if text else []


class Completion(Format):
    """A prompt and its completion, of which the completion is learnt."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The two fields."""
        return self.config.prompt_field, self.config.completion_field

    def spans(self, row: Mapping[str, Any], place: str) -> list[Span]:
        """Return the prompt and the completion, which may not be empty."""
        settings = ("data.prompt_field", "data.completion_field")
        prompt, completion = (
            _text(_value(row, field, setting, place), field, place, f"set {setting}")
            for field, setting in zip(self.fields, settings, strict=True)
        )
        if not completion:
            raise DataError(
                f"{place} has an empty '{self.fields[1]}', and a completion is what is learnt: fill it in, or "
                "leave the line out"
            )
        return [span for span in (Span(prompt, learn=False), Span(completion, learn=True)) if span.text]


class Chat(Format):
    """A list of messages, of which those of the assistant are learnt."""

    def __init__(self, config: DataConfig, part: PartConfig) -> None:
        super().__init__(config, part)
        self.template = chat_template(config.template)

    @property
    def fields(self) -> tuple[str, ...]:
        """The field of the messages."""
        return (self.config.messages_field,)

    def spans(self, row: Mapping[str, Any], place: str) -> list[Span]:
        """Return the messages written by the template."""
        (field,) = self.fields
        messages = _value(row, field, "data.messages_field", place)
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            raise DataError(
                f"{place} has a {_kind(messages)} under '{field}', not a list of messages: write "
                '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
            )
        checked = [_message(message, f"message {n} on {place}") for n, message in enumerate(messages, start=1)]
        if not checked:
            raise DataError(f"{place} has no messages: give it some, or leave the line out")
        if self.config.train_on == "completions" and not any(message["role"] == ANSWERS for message in checked):
            raise DataError(
                f"{place} has no message of the assistant, and only those are learnt: add one, leave the line out, "
                "or set data.train_on=all"
            )
        try:
            return self.template.spans(checked)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None


FORMATS: dict[str, type[Format]] = {"text": Text, "completion": Completion, "chat": Chat}
"""The formats by the name that `data.format` gives them."""


def _message(message: Any, place: str) -> dict[str, Any]:
    """Return a message that was checked; what it holds besides may be of use to a Jinja template."""
    if not isinstance(message, Mapping):
        raise DataError(f'{place} is a {_kind(message)}, not an object: write {{"role": "user", "content": "..."}}')
    for key in ("role", "content"):
        if message.get(key) is None:
            raise DataError(
                f"{place} has no '{key}' (it has {_names(message)}): each message needs a role and a content"
            )
    role, content = message["role"], message["content"]
    if role not in ROLES:
        near = did_you_mean(str(role), ROLES)
        raise DataError(f"{place} has the unknown role {role!r:.40}; the roles are {', '.join(ROLES)}{near}")
    return {**message, "role": role, "content": _text(content, "content", place, "content must be text")}


def _value(row: Mapping[str, Any], field: str, setting: str, place: str) -> Any:
    if field not in row:
        raise DataError(f"{place} has no '{field}' (it has {_names(row)}): set {setting} to the key that holds it")
    return row[field]


def _text(value: Any, field: str, place: str, way_out: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place} has a {_kind(value)} under '{field}', not text: {way_out}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place} holds \\u{ord(value[error.start]):04x} under '{field}', half of a surrogate pair, "
            "which is no character: write the pair whole or leave it out"
        ) from None
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, islice(row, 20))) or "no keys"


def flagged(spans: Sequence[Span]) -> Iterator[tuple[Span, bool]]:
    """Yield each span with whether it is the last."""
    for number, span in enumerate(spans, start=1):
        yield span, number == len(spans)
