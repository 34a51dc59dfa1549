"""One token a distinct character of the text: the small vocabulary of character-level models."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, Self

import numpy as np

from gptwright.errors import DataError
from gptwright.tokenizer.base import (
    EOT,
    Progress,
    Tokenizer,
    cut_evenly,
    read_json,
    text_bytes,
    write_json,
)

_FILE = "vocabulary.json"
_BLOCK = 1 << 20  # characters looked at together, so that a big text is never held as code points whole


class Char(Tokenizer):
    """The distinct characters, sorted, and the end of text after them when there is one."""

    class Config(Tokenizer.Config):
        """Settings of the char tokenizer: there are none, the text decides."""

    EXAMPLES: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    LEARNS_FROM: ClassVar[Literal["train", "all"]] = "all"

    def __init__(self, config: Config, characters: str, *, with_eot: bool) -> None:
        size = len(characters)
        super().__init__(config, size + with_eot, size if with_eot else None)
        self.characters = characters
        codes = _codes(characters)
        last = int(codes.max(initial=0)) + 1
        self._ids = np.full(last + 1, -1, dtype=np.int64)  # code point -> id; the last row means "beyond all"
        self._ids[codes] = np.arange(size)

    @classmethod
    def train(cls, config: Config, texts: Iterable[str], *, with_eot: bool, progress: Progress | None = None) -> Self:
        """Collect the distinct characters of ``texts``.

        Raises:
            DataError: there are none.
        """
        seen, done = np.zeros(sys.maxunicode + 1, dtype=bool), 0
        for text in texts:
            for block in cut_evenly(text, _BLOCK):
                seen[_codes(block)] = True
                done += len(block)
                if progress:
                    progress("tokenizer", done, None)
        characters = "".join(map(chr, np.flatnonzero(seen)))
        if not characters:
            raise DataError("a char tokenizer cannot be made from no text at all: give it some, or use byte")
        return cls(config, characters, with_eot=with_eot)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of the characters, int64 (n,).

        Raises:
            DataError: a character is not in the vocabulary; it is named.
        """
        codes = _codes(text)
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        if ids.size and ids.min() < 0:
            raise self._unknown(text, int(np.argmin(ids)))
        return ids

    def _unknown(self, text: str, place: int) -> DataError:
        found = text[place]
        return DataError(
            f"the character {found!r} (U+{ord(found):04X}) at position {place} is not among the "
            f"{len(self.characters)} that this char tokenizer was made from: leave it out, or use the byte "
            "or bpe tokenizer, which know every character"
        )

    def token_bytes(self, id: int) -> bytes:
        """Return the UTF-8 of the character ``id``, or the words of the end-of-text token."""
        return (EOT if id == self.eot_id else self.characters[id]).encode()

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """Cut anywhere: every character is encoded alone."""
        return cut_evenly(text, size)

    def contents(self) -> dict[str, bytes]:
        """Return the characters in the order of their ids."""
        return {_FILE: write_json({"characters": self.characters, "eot": self.eot_id is not None})}

    @classmethod
    def from_contents(cls, config: Config, contents: dict[str, bytes]) -> Self:
        """Make the tokenizer again.

        Raises:
            DataError: the characters are missing, or not distinct and sorted.
        """
        saved = read_json(contents, _FILE)
        characters = saved.get("characters")
        if not isinstance(characters, str) or not characters or "".join(sorted(set(characters))) != characters:
            raise DataError(f"the saved char tokenizer's {_FILE} does not hold sorted, distinct characters")
        return cls(config, characters, with_eot=bool(saved.get("eot")))


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text_bytes(text, "utf-32-le"), dtype=np.uint32)
