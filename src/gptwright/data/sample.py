"""The text that a tokenizer learns from: all of it, or a part spread evenly over all of it."""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from gptwright.data.split import Part

_PIECE = 1 << 16  # characters taken or left together
_WORD_END = re.compile(r"[!-~\u3001-\ud7ff\w](?=[ \n])")


def texts(parts: Sequence[Part], split: Literal["train", "all"], limit: int) -> Iterator[str]:
    """Yield the documents of ``split``, long ones in pieces that end with a word.

    Of the training split at most about ``limit`` characters, in short pieces evenly spread: merges are learnt from a
    sample as well as from the whole, in constant memory. ``all`` is all, for a vocabulary that must miss nothing.
    """
    every = (piece.text for part in parts for name, piece in part.routed() if split in (name, "all"))
    total = sum(part.characters for part in parts)
    if split == "all" or total <= limit:
        yield from every
        return
    taken, passed = 0, 0
    for text in every:
        for piece in _chopped(text):
            if taken * total <= passed * limit and taken < limit:
                taken += len(piece)
                yield piece
            passed += len(piece)


def _chopped(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE:
        found = _WORD_END.search(text, start + _PIECE, start + 2 * _PIECE)
        end = found.end() if found else start + _PIECE
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
