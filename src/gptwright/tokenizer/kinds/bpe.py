"""Byte-level byte-pair encoding (Sennrich et al. 2016; bytes as in GPT-2), by the ``tokenizers`` library.

What is saved is the library's own ``tokenizer.json``, which other tools read as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field
from tokenizers import Tokenizer as Library
from tokenizers import decoders, pre_tokenizers, trainers

from gptwright.errors import DataError
from gptwright.tokenizer.base import EOT, Progress, Tokenizer
from gptwright.tokenizer.library import byte_table, cut_safely, encode_batch, new_library, splits_as_gpt2

FILE = "tokenizer.json"
_PIECE = 1 << 16  # characters encoded as one piece; several pieces keep all cores busy


class Bpe(Tokenizer):
    """Learns the most useful byte strings of the training text; can say any text."""

    class Config(Tokenizer.Config):
        """Settings of the bpe tokenizer."""

        vocab_size: int = Field(4096, ge=257)
        """Most tokens to learn, the 256 bytes and the end of text among them; a small text yields fewer."""

    EXAMPLES: ClassVar[tuple[dict[str, Any], ...]] = ({"vocab_size": 300},)

    def __init__(self, config: Config, library: Library) -> None:
        super().__init__(config, library.get_vocab_size(with_added_tokens=True), library.token_to_id(EOT))
        library.encode_special_tokens = True  # words that look like a special token are text, not control
        self._library = library
        self._table = byte_table(library, self.vocab_size)
        self._may_cut = splits_as_gpt2(library)

    @classmethod
    def train(
        cls, config: Config, texts: Iterable[str], *, with_eot: bool = True, progress: Progress | None = None
    ) -> Self:
        """Learn merges from ``texts``; there is always an end-of-text token."""
        del with_eot
        library = new_library()
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            min_frequency=2,
            special_tokens=[EOT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        library.train_from_iterator(_told(texts, progress), trainer)
        return cls(config, library)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of ``text``, int64 (n,); a long text uses all cores."""
        parts = self.encode_batch(list(self.pieces(text, _PIECE)))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int64, encoded on the library's own threads."""
        return encode_batch(self._library, texts)

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that the token ``id`` stands for."""
        return self._table[id]

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """Cut before a space or newline that follows a character, where no token can cross."""
        if self._may_cut:
            yield from cut_safely(text, size)
        elif text:
            yield text

    def contents(self) -> dict[str, bytes]:
        """Return the library's ``tokenizer.json``."""
        return {FILE: self._library.to_str(pretty=True).encode()}

    @classmethod
    def from_contents(cls, config: Config, contents: dict[str, bytes]) -> Self:
        """Make the tokenizer again from a byte-level ``tokenizer.json``.

        Raises:
            DataError: it is damaged, or not byte-level.
        """
        try:
            library = Library.from_buffer(contents[FILE])
        except Exception as error:  # the library raises bare Exception for a file that it cannot read
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"the saved tokenizer has no readable {FILE} ({reason})") from None
        if not isinstance(library.decoder, decoders.ByteLevel):
            raise DataError(
                f"the tokenizer.json given decodes by {type(library.decoder).__name__}, and bpe here is "
                "byte-level: give one with a ByteLevel decoder (as GPT-2's), or train one"
            )
        return cls(config, library)


def _told(texts: Iterable[str], progress: Progress | None) -> Iterator[str]:
    """Yield ``texts`` in pieces that split as the whole would, and say how far we are."""
    done = 0
    for text in texts:
        for piece in cut_safely(text, _PIECE):
            yield piece
            done += len(piece)
            if progress:
                progress("tokenizer", done, None)
