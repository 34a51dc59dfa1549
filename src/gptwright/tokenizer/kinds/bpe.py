"""Byte-level byte-pair encoding (Sennrich et al. 2016; bytes as in GPT-2), by the ``tokenizers`` library.

What is saved is the library's own ``tokenizer.json``, which other tools read as it is.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from gptwright.errors import DataError
from gptwright.tokenizer.base import EOT, Progress, Tokenizer, text_bytes

FILE = "tokenizer.json"
_PIECE = 1 << 16  # characters encoded as one piece; several pieces keep all cores busy

# A match of the splitting rule never runs from a character that is no white space into white space: letters,
# digits and signs each take at most one space BEFORE them. So a cut between the two moves no boundary, and
# merges never cross one. The class below holds no white space in any version of Unicode.
_CUT = re.compile(r"[!-~\u3001-\ud7ff\w][ \n]")


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
        self._table = _token_table(library, self.vocab_size)
        self._may_cut = _is_ours(library)

    @classmethod
    def train(
        cls, config: Config, texts: Iterable[str], *, with_eot: bool = True, progress: Progress | None = None
    ) -> Self:
        """Learn merges from ``texts``; there is always an end-of-text token."""
        del with_eot
        library = _new_library()
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
        try:
            found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            for text in texts:  # what the library refuses as "not a str" holds half a surrogate pair
                text_bytes(text, "utf-8")
            raise
        return [np.array(one.ids, dtype=np.int64) for one in found]

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that the token ``id`` stands for."""
        return self._table[id]

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """Cut before a space or newline that follows a character, where no token can cross."""
        if self._may_cut:
            yield from _cut_safely(text, size)
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


def _new_library() -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    return library


def _is_ours(library: Library) -> bool:
    """Say whether text is split by the rule for which `_CUT` was shown to be safe."""
    ours = _new_library()
    same_split = repr(library.pre_tokenizer) == repr(ours.pre_tokenizer)
    return same_split and library.normalizer is None and library.truncation is None


def _cut_safely(text: str, size: int) -> Iterator[str]:
    start = 0
    while len(text) - start > size:
        found = _CUT.search(text, start + size)
        if not found:
            break
        yield text[start : found.start() + 1]
        start = found.start() + 1
    if start < len(text):
        yield text[start:]


def _told(texts: Iterable[str], progress: Progress | None) -> Iterator[str]:
    """Yield ``texts`` in pieces that split as the whole would, and say how far we are."""
    done = 0
    for text in texts:
        for piece in _cut_safely(text, _PIECE):
            yield piece
            done += len(piece)
            if progress:
                progress("tokenizer", done, None)


def _token_table(library: Library, size: int) -> list[bytes]:
    added = {id: token.content.encode() for id, token in library.get_added_tokens_decoder().items()}
    byte_of = _byte_of_letter()
    table = [added.get(id, b"") for id in range(size)]
    for token, id in library.get_vocab(with_added_tokens=False).items():
        if id not in added and id < size:
            table[id] = b"".join(byte_of.get(letter, letter.encode()) for letter in token)
    return table


def _byte_of_letter() -> dict[str, bytes]:
    """Return the letters under which GPT-2 writes the 256 bytes: printable ones as themselves."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): bytes([byte]) for byte in shown}
    return letters | {chr(256 + rank): bytes([byte]) for rank, byte in enumerate(hidden)}
