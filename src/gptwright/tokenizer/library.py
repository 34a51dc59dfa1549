"""What the kinds that the ``tokenizers`` library backs have in common: encoding, safe cuts, and the bytes of tokens."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from gptwright.tokenizer.base import text_bytes

# A match of the splitting rule never runs from a character that is no white space into white space: letters,
# digits and signs each take at most one space BEFORE them. So a cut between the two moves no boundary, and
# merges never cross one. The class below holds no white space in any version of Unicode.
_CUT = re.compile(r"[!-~\u3001-\ud7ff\w][ \n]")


def new_library() -> Library:
    """Return an empty byte-level BPE that splits text as GPT-2 does."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    return library


def encode_batch(library: Library, texts: Sequence[str]) -> list[np.ndarray]:
    """Return the ids of each text, int64, encoded on the library's own threads.

    Raises:
        DataError: a text holds half a surrogate pair.
    """
    try:
        found = library.encode_batch_fast(list(texts), add_special_tokens=False)
    except TypeError:
        for text in texts:  # what the library refuses as "not a str" holds half a surrogate pair
            text_bytes(text, "utf-8")
        raise
    return [np.array(one.ids, dtype=np.int64) for one in found]


def splits_as_gpt2(library: Library) -> bool:
    """Say whether text is split by the rule for which `cut_safely` was shown to be safe."""
    same_split = repr(library.pre_tokenizer) == repr(new_library().pre_tokenizer)
    plain = library.normalizer is None and library.truncation is None
    return same_split and plain and not any(map(_crosses, library.get_added_tokens_decoder().values()))


def _crosses(token) -> bool:
    """Say whether an added token that is matched in plain text may reach over a cut."""
    return not token.special and (
        token.lstrip or token.rstrip or token.single_word or _CUT.search(token.content) is not None
    )


def cut_safely(text: str, size: int) -> Iterator[str]:
    """Cut ``text`` into pieces of about ``size`` characters, before a space or newline that no token crosses."""
    start = 0
    while len(text) - start > size:
        found = _CUT.search(text, start + size)
        if not found:
            break
        yield text[start : found.start() + 1]
        start = found.start() + 1
    if start < len(text):
        yield text[start:]


def byte_table(library: Library, size: int) -> list[bytes]:
    """Return the bytes of each id of a byte-level tokenizer, none for ids that it does not know."""
    table, byte_of = [b""] * size, byte_of_letter()
    for token, id in library.get_vocab(with_added_tokens=True).items():
        if id < size:  # as the library decodes: letters of bytes, or a token with any other letter as it stands
            known = all(letter in byte_of for letter in token)
            table[id] = b"".join(byte_of[letter] for letter in token) if known else token.encode()
    return table


def byte_of_letter() -> dict[str, bytes]:
    """Return the letters under which GPT-2 writes the 256 bytes: printable ones as themselves."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): bytes([byte]) for byte in shown}
    return letters | {chr(256 + rank): bytes([byte]) for rank, byte in enumerate(hidden)}
