"""Text from ids one at a time, for tokenizers whose tokens are no byte strings.

Such decoders look at their neighbours: the first token loses a space, the last one too, and bytes written as tokens
of their own are characters only together. What is given out here is what no later token can change.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer as Library

from gptwright.tokenizer.base import TextStream

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_LETTERS = re.compile(r"[A-Za-z]+")
_ALONE = {"Metaspace", "WordPiece", "BPEDecoder", "ByteFallback", "Fuse"}


class Window:
    """How the tokens of a library's decoder depend on each other; made once a tokenizer."""

    def __init__(self, library: Library) -> None:
        self.decode: Callable[[list[int]], str] = lambda ids: decoded(library, ids)
        state = _state(library)
        vocabulary = library.get_vocab(with_added_tokens=True)
        falls_back = "ByteFallback" in _types(state)
        self.bytes = {
            id: int(token[3:5], 16) for token, id in vocabulary.items() if falls_back and _BYTE.fullmatch(token)
        }
        """The ids that are a byte each."""
        self.known = set(vocabulary.values())
        self.anchor = self._find_anchor(vocabulary) if _is_local(state) else None
        """A token that stands for its letters wherever it is; None where nothing is certain before the end."""
        anchor = [] if self.anchor is None else [self.anchor]
        self._head = len(self.decode(anchor))
        self._tail = len(self.decode(anchor * 2)) - self._head

    def middle(self, id: int) -> bytes:
        """Return the bytes of ``id`` between other tokens, as far as they can be told."""
        if id in self.bytes:
            return bytes([self.bytes[id]])
        if id not in self.known:
            return b""
        if self.anchor is None:
            return self.decode([id]).encode()
        return self.between([id], begun=True, followed=True).encode()

    def between(self, ids: list[int], *, begun: bool, followed: bool) -> str:
        """Return the text of ``ids`` after other tokens (``begun``) and before others (``followed``)."""
        anchor = [] if self.anchor is None else [self.anchor]
        found = self.decode([*(anchor if begun else ()), *ids, *(anchor if followed else ())])
        return found[self._head if begun else 0 : len(found) - (self._tail if followed else 0)]

    def _find_anchor(self, vocabulary: Mapping[str, int]) -> int | None:
        letters = sorted(
            (token for token in vocabulary if _LETTERS.fullmatch(token)), key=lambda token: (len(token), token)
        )
        for token in letters[:50]:
            id = vocabulary[token]
            if self.decode([id]) == token and self.decode([id] * 3) in (token * 3, " ".join([token] * 3)):
                return id
        return None


class WindowStream(TextStream):
    """Decodes ids one at a time through a `Window`; what the next token may change is held back."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._pending: list[int] = []
        self._begun = False
        self._shown = 0

    def push(self, id: int) -> str:
        """Return the text that has become certain with ``id``, perhaps none."""
        window, found = self._window, ""
        if id not in window.known:
            return ""  # a row of a padded vocabulary, which stands for nothing
        if window.anchor is None:
            self._pending.append(id)
            return ""
        if self._pending and not (id in window.bytes and self._pending[-1] in window.bytes):
            found = self._settle()
        self._pending.append(id)
        if id in window.bytes:
            return found
        certain = _common(self._text(followed=True), self._text(followed=False))
        found, self._shown = found + certain[self._shown :], max(self._shown, len(certain))
        return found

    def flush(self) -> str:
        """Return what is left at the end."""
        found = self._text(followed=False)[self._shown :]
        self._pending, self._begun, self._shown = [], False, 0
        return found

    def _settle(self) -> str:
        """Give out all that is pending, as another token follows it."""
        text = self._text(followed=True)
        found, self._shown = text[self._shown :], len(text)
        if self._begun or text:  # until there is any text, the next token may still count as the first
            self._pending, self._begun, self._shown = [], True, 0
        return found

    def _text(self, *, followed: bool) -> str:
        if not self._pending:
            return ""
        return self._window.between(self._pending, begun=self._begun, followed=followed)


def decoded(library: Library, ids: list[int]) -> str:
    """Return the text of ``ids``, special tokens as they are written; the library cannot always decode nothing."""
    return library.decode(ids, skip_special_tokens=False) if ids else ""


def _common(one: str, other: str) -> str:
    """Return what both begin with."""
    differs = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return one[: next(differs, min(len(one), len(other)))]


def _state(library: Library) -> dict[str, Any]:
    decoder = library.decoder
    return {} if decoder is None else json.loads(decoder.__getstate__())


def _types(state: Mapping[str, Any]) -> list[str]:
    return [state.get("type", ""), *(name for each in state.get("decoders", ()) for name in _types(each))]


def _is_local(state: Mapping[str, Any]) -> bool:
    """Say whether a decoder looks no farther than to its neighbours."""
    kind = state.get("type")
    if kind == "Sequence":
        return all(_is_local(each) for each in state["decoders"])
    if kind == "Strip":
        return state["stop"] == 0
    if kind == "Replace":
        return len(state["pattern"].get("String", "")) == 1
    return kind is None or kind in _ALONE
