"""A tokenizer as the files of a Hugging Face folder, which `transformers.AutoTokenizer` reads without any of our code.

Ids and decoded text are ours, with two habits of the other side: it takes a special token that is written in a text for
the control id (unless asked for `split_special_tokens`), and drops a character that a char tokenizer does not know.
"""

import json
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from gptwright.data.chat_template import jinja_text
from gptwright.errors import Unsupported
from gptwright.tokenizer.base import EOT, Tokenizer
from gptwright.tokenizer.kinds.bpe import FILE, Bpe
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char
from gptwright.tokenizer.kinds.pretrained import Pretrained
from gptwright.tokenizer.library import byte_of_letter


def hf_files(tokenizer: Tokenizer, *, template: str | None = None, max_length: int | None = None) -> dict[str, bytes]:
    """Return the files of ``tokenizer`` by name: tokenizer.json, its settings, and the chat template if there is one.

    Args:
        tokenizer: one of ours.
        template: how chats are written, as in `data.template`; by default as the tokenizer itself says.
        max_length: the most tokens of the model's context, which transformers warns beyond.

    Raises:
        Unsupported: the tokenizer is of a kind of the user's own.
        DataError: there is no such template.
    """
    chat = tokenizer.chat_template if template is None else jinja_text(template, tokenizer)
    files = {
        FILE: library_json(tokenizer),
        "tokenizer_config.json": _json(_settings(tokenizer, chat, max_length)),
        "special_tokens_map.json": _json(tokenizer.special_tokens),
    }
    return files if chat is None else {**files, "chat_template.jinja": chat.encode()}


def library_json(tokenizer: Tokenizer) -> bytes:
    """Return the ``tokenizer.json`` of ``tokenizer``, with the same ids.

    Raises:
        Unsupported: it is of a kind of the user's own.
    """
    write = _WRITERS.get(type(tokenizer))  # a kind that extends one of ours may do anything
    if write is not None:
        return write(tokenizer)
    raise Unsupported(
        f"a tokenizer of your own ({tokenizer.type_name()}) cannot be written as tokenizer.json, which holds only what "
        "the tokenizers library knows: export a model with a byte, char, bpe or pretrained tokenizer"
    )


def _settings(tokenizer: Tokenizer, chat: str | None, max_length: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer.special_tokens}
    found["clean_up_tokenization_spaces"] = False
    if max_length is not None:
        found["model_max_length"] = max_length
    if chat is not None:
        found["chat_template"] = chat  # for tools that do not look for the file of its own
    return found


def _own(tokenizer: Bpe | Pretrained) -> bytes:
    return tokenizer.contents()[FILE]


def _bytes(tokenizer: Byte) -> bytes:
    """Return a BPE without merges, of which each byte is a letter with its own value as its id."""
    ids = {letter: byte[0] for letter, byte in byte_of_letter().items()}
    library = Library(models.BPE(vocab=ids, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    return _ended(library, tokenizer)


def _characters(tokenizer: Char) -> bytes:
    library = Library(models.BPE(vocab={letter: id for id, letter in enumerate(tokenizer.characters)}, merges=[]))
    library.decoder = decoders.Fuse()
    return _ended(library, tokenizer)


def _ended(library: Library, tokenizer: Tokenizer) -> bytes:
    """Add the end of text, whose id is the next one."""
    if tokenizer.eot_id is not None:
        library.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
    return library.to_str().encode()


_WRITERS: dict[type[Tokenizer], Any] = {Byte: _bytes, Char: _characters, Bpe: _own, Pretrained: _own}


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
