"""The contract of a tokenizer: text to ids and back, exactly, and the same again after a save."""

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from gptwright.config.slot import Component, ComponentConfig
from gptwright.errors import DataError

EOT = "<|endoftext|>"
"""How the end-of-text token reads when decoded; the same words in text are only text."""

KIND_FILE = "kind.json"
"""The file of a saved tokenizer that says which kind it is, with its settings."""

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(stage, done, total)``; ``total`` is None when it is not known."""


class Tokenizer(Component, ABC):
    """Turns text into token ids and back; made by `train` or `from_contents`, never changed afterwards.

    ``vocab_size`` counts every id, ``eot_id`` included; ``eot_id`` is None when there is no such token.
    """

    end_ids: tuple[int, ...] = ()
    """Every id that ends a text, ``eot_id`` first."""
    prefix_ids: tuple[int, ...] = ()
    """The ids that every text begins with, such as a beginning-of-text token."""
    chat_template: str | None = None
    """How chats are written, a Jinja template as Hugging Face writes them; None where the tokenizer brings none."""

    class Config(ComponentConfig):
        """Settings of a tokenizer."""

    LEARNS_FROM: ClassVar[Literal["train", "all"]] = "train"
    """The texts that `train` must see: the training split only, or everything."""

    vocab_size: int
    eot_id: int | None

    def __init__(self, config: ComponentConfig, vocab_size: int, eot_id: int | None) -> None:
        self.config = config
        self.vocab_size = vocab_size
        self.eot_id = eot_id
        self.end_ids = () if eot_id is None else (eot_id,)

    @classmethod
    @abstractmethod
    def train(cls, config: Any, texts: Iterable[str], *, with_eot: bool, progress: Progress | None = None) -> Self:
        """Learn from ``texts``, read once; ``with_eot`` adds an end-of-text token."""

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the ids of ``text``, int64 (n,).

        Raises:
            DataError: the text holds something that this tokenizer cannot say.
        """

    @abstractmethod
    def token_bytes(self, id: int) -> bytes:
        """Return the UTF-8 bytes that ``id`` stands for, perhaps only a part of a character."""

    @abstractmethod
    def contents(self) -> dict[str, bytes]:
        """Return what was learnt, as the files to save (file name to bytes)."""

    @classmethod
    @abstractmethod
    def from_contents(cls, config: Any, contents: dict[str, bytes]) -> Self:
        """Make the tokenizer again from what `contents` gave.

        Raises:
            DataError: the contents are damaged.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int64; a kind with threads of its own uses them here."""
        return [self.encode(text) for text in texts]

    def encode_marked(self, text: str) -> np.ndarray:
        """Return the ids of ``text``, int64 (n,), the special tokens written in it becoming control ids.

        For text that a chat template wrote. What somebody else wrote is for `encode`, which takes it for text only.
        """
        if self.eot_id is None:
            return self.encode(text)
        first, *others = self.encode_batch(text.split(EOT))
        mark = np.array([self.eot_id], dtype=np.int64)
        return np.concatenate([first, *(part for other in others for part in (mark, other))])

    def encode_spans(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of `encode_marked`, and of each whether it lies in one of ``spans``, bool (n,).

        Spans are (first character, character after the last), in order and apart. Here the text is cut at their ends;
        a kind that knows where its tokens stand encodes it whole.
        """
        cuts = [0, *(place for span in spans for place in span), len(text)]
        parts = [self.encode_marked(text[start:end]) for start, end in pairwise(cuts)]
        inside = [np.full(len(part), number % 2 == 1) for number, part in enumerate(parts)]
        return np.concatenate(parts), np.concatenate(inside)

    @property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens by the names that Hugging Face gives them, such as ``eos_token``."""
        if self.eot_id is None:
            return {}
        end = self.decode([self.eot_id])
        return {"bos_token": end, "eos_token": end}

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """Cut ``text`` into pieces of about ``size`` characters whose ids, joined, are those of the whole."""
        del size
        yield text

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of ``ids``; bytes that make no whole character become U+FFFD.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        table = self._byte_table
        return b"".join([table[id] for id in self._checked(ids)]).decode("utf-8", errors="replace")

    def stream(self) -> "TextStream":
        """Return a decoder for ids that come one at a time."""
        return TextStream(self)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer into ``folder``, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kind = {"format": 1, "config": self.config.to_dict()}
        for name, content in {**self.contents(), KIND_FILE: write_json(kind)}.items():
            (folder / name).write_bytes(content)

    @property
    def fingerprint(self) -> str:
        """The sha256 (hex) of the kind and of everything that `save` writes about what was learnt."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.type_name().encode())
        for name, content in sorted(self.contents().items()):
            digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    @cached_property
    def _byte_table(self) -> list[bytes]:
        return [self.token_bytes(id) for id in range(self.vocab_size)]

    def _checked(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        array = np.asarray(ids, dtype=np.int64).reshape(-1)
        wrong = array[(array < 0) | (array >= self.vocab_size)]
        if wrong.size:
            raise DataError(
                f"token id {wrong[0]} is outside this {self.type_name()} tokenizer's ids 0 to "
                f"{self.vocab_size - 1}: decode with the tokenizer that the ids were made with"
            )
        return array.tolist()


class TextStream:
    """Decodes ids one at a time and gives back only complete characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """Return the characters that ``id`` completes, perhaps none."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD for a character never completed, or nothing."""
        return self._decoder.decode(b"", final=True)


def cut_evenly(text: str, size: int) -> Iterator[str]:
    """Yield ``text`` in slices of ``size`` characters."""
    for start in range(0, len(text), size):
        yield text[start : start + size]


def text_bytes(text: str, encoding: str) -> bytes:
    """Encode ``text``, or say in a sentence why it cannot be.

    Raises:
        DataError: it holds half a surrogate pair, which is no character.
    """
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text holds U+{ord(text[error.start]):04X} at character {error.start}, half of a surrogate "
            "pair, which is no character and has no UTF-8: remove it or replace it with U+FFFD"
        ) from None


def read_json(contents: dict[str, bytes], name: str) -> dict[str, Any]:
    """Return the JSON object saved as ``name``.

    Raises:
        DataError: it is missing or no JSON object.
    """
    try:
        found = json.loads(contents[name])
    except (KeyError, ValueError) as error:
        raise DataError(f"the saved tokenizer has no readable {name} ({error}): save or train it again") from None
    if not isinstance(found, dict):
        raise DataError(f"the saved tokenizer's {name} is not a JSON object: save or train it again")
    return found


def write_json(data: dict[str, Any]) -> bytes:
    """Return ``data`` as the bytes of a JSON file."""
    return (json.dumps(data, indent=1) + "\n").encode()
