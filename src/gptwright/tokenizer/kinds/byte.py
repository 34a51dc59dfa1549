"""One token a byte of UTF-8: nothing to learn, nothing unknown."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

import numpy as np

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


class Byte(Tokenizer):
    """Ids 0 to 255 are the bytes; 256 is the end of text when there is one."""

    class Config(Tokenizer.Config):
        """Settings of the byte tokenizer: there are none."""

    EXAMPLES: ClassVar[tuple[dict[str, Any], ...]] = ({},)

    def __init__(self, config: Config, *, with_eot: bool) -> None:
        super().__init__(config, 256 + with_eot, 256 if with_eot else None)

    @classmethod
    def train(cls, config: Config, texts: Iterable[str], *, with_eot: bool, progress: Progress | None = None) -> Self:
        """Return the tokenizer; ``texts`` are not read."""
        del texts, progress
        return cls(config, with_eot=with_eot)

    def encode(self, text: str) -> np.ndarray:
        """Return the UTF-8 bytes of ``text`` as int64 (n,)."""
        return np.frombuffer(text_bytes(text, "utf-8"), dtype=np.uint8).astype(np.int64)

    def token_bytes(self, id: int) -> bytes:
        """Return the byte ``id``, or the words of the end-of-text token."""
        return EOT.encode() if id == self.eot_id else bytes([id])

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """Cut anywhere: every character is encoded alone."""
        return cut_evenly(text, size)

    def contents(self) -> dict[str, bytes]:
        """Return the one thing to remember: whether there is an end-of-text token."""
        return {_FILE: write_json({"eot": self.eot_id is not None})}

    @classmethod
    def from_contents(cls, config: Config, contents: dict[str, bytes]) -> Self:
        """Make the tokenizer again."""
        return cls(config, with_eot=bool(read_json(contents, _FILE).get("eot")))
