"""Which chat template a setting means: a name, text with {role} and {content}, Jinja, or the tokenizer's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from gptwright.data.config import DataConfig
from gptwright.data.contracts import TextTokenizer, TokenizerMaker
from gptwright.data.jinja import JinjaTemplate, literal
from gptwright.data.template import Template
from gptwright.errors import DataError

AnyTemplate = Template | JinjaTemplate

OWN = "tokenizer"
"""The setting that means the template which the tokenizer brings along."""
_SUFFIXES = (".jinja", ".jinja2", ".j2")
_MOST = 1 << 20  # bytes of a template file


def is_jinja(name: str) -> bool:
    """Say whether a setting means a Jinja template: the tokenizer's own, a file of one, or its text."""
    return name == OWN or name.endswith(_SUFFIXES) or "{%" in name or "{{" in name


def chat_template(name: str, tokenizer: Any = None) -> AnyTemplate:
    """Return the template that the setting ``name`` means, special tokens in it being those of ``tokenizer``.

    Raises:
        DataError: there is none of that name, its file cannot be read, or the tokenizer has none.
    """
    if not is_jinja(name):
        return Template.named(name)
    return JinjaTemplate.with_tokens(jinja_text(name, tokenizer), {} if tokenizer is None else tokenizer.special_tokens)


def jinja_text(name: str, tokenizer: Any = None) -> str:
    """Return the template that the setting ``name`` means as Hugging Face's tools read it.

    Raises:
        DataError: as `chat_template` does.
    """
    if not is_jinja(name):
        return _as_jinja(Template.named(name))
    return _own(tokenizer) if name == OWN else _file(name) if name.endswith(_SUFFIXES) else name


def _own(tokenizer: Any) -> str:
    found = None if tokenizer is None else tokenizer.chat_template
    if found is None:
        kind = "it has none" if tokenizer is None else f"this {tokenizer.type_name()} tokenizer has none"
        raise DataError(
            f"data.template is the tokenizer's own chat template, and {kind}: use a pretrained tokenizer that has one, "
            "or give a template such as chatml, or a .jinja file"
        )
    return found


def _file(name: str) -> str:
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
        if len(content) > _MOST:
            raise DataError(f"{path} has more than {_MOST:,} bytes, which no chat template has: give another")
        return content.decode()
    except OSError as error:
        raise DataError(f"the chat template {path} cannot be read: {error.strerror} (data.template)") from None
    except UnicodeDecodeError as error:
        raise DataError(f"the chat template {path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def stored(text: str) -> AnyTemplate:
    """Return the template whose text was kept with prepared data."""
    return JinjaTemplate(text) if is_jinja(text) else Template(text)


def settle(
    config: DataConfig, tokenizer: TextTokenizer | None, make: TokenizerMaker
) -> tuple[DataConfig, TextTokenizer | None]:
    """Return ``config`` with a Jinja template as text that says all, and the tokenizer that was made for that, if any.

    Raises:
        DataError: the template cannot be read, or the tokenizer has none.
    """
    if config.format != "chat" or not is_jinja(config.template):
        return config, tokenizer
    tokenizer = tokenizer or _made(config, make)
    if tokenizer is None and config.template != OWN:
        template = chat_template(config.template, _Learnt())
    else:
        template = chat_template(config.template, tokenizer)
    return config.model_copy(update={"template": template.text}), tokenizer


class _Learnt:
    """What is known beforehand of a tokenizer that is yet to be learnt from the text."""

    special_tokens = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}  # noqa: RUF012 - never changed


class _NeedsText(Exception):  # noqa: N818 - no error of the user's
    """A tokenizer asked for text to learn from."""


def _made(config: DataConfig, make: TokenizerMaker) -> TextTokenizer | None:
    """Return the tokenizer of ``config``, or None where it has to learn from the text, which is not written yet."""
    try:
        return make(config.tokenizer, _no_text, with_eot=True, progress=None, saved=None)
    except _NeedsText:
        return None


def _no_text(split: Literal["train", "all"]) -> Iterator[str]:
    raise _NeedsText(split)
    yield  # which makes it a generator: whoever does not read is not refused


def _as_jinja(template: Template) -> str:
    opening, _, closing = template.text.partition("{content}")
    before, after = _written(opening, "message['role']"), _written(closing, "message['role']")
    message = " + ".join([*before, "message['content']", *after])
    reply = " + ".join(_written(opening, "'assistant'"))
    return (
        f"{{% for message in messages %}}{{{{ {message} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {reply} }}}}{{% endif %}}"
    )


def _written(text: str, role: str) -> list[str]:
    """Return the terms of the expression that writes ``text`` with ``role`` in it."""
    first, *others = text.split("{role}")
    terms = [first, *(term for other in others for term in (None, other))]
    return [role if term is None else literal(term) for term in terms if term != ""]
