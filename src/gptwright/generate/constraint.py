"""Text that must follow a regular expression or a JSON schema, token by token, by the ``llguidance`` library.

The library keeps a parser a sequence and says which tokens may come next: those after which the text can still become
one that fits. Tokens are bytes to it, so one that is a part of a character is no special case.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.tokenizer.base import Tokenizer

# Where only one text can follow, the library would allow only the token that its own reading of that text begins
# with; that reading knows nothing of characters that a tokenizer cannot say, so it is told to leave every way open.
_OPEN = '%llguidance {"no_forcing": true}\n'
_WHITE_SPACE = "[ ]?"
"""What may stand where JSON allows any white space: without a limit, a model may write it for ever."""


class Constraint:
    """What one sequence may still become; made by `regex` or `json_schema`, one for each sequence.

    Where the text fits and may also go on, the tokenizer's end-of-text token is allowed beside what goes on. A
    tokenizer without one cannot end there: the sequence goes on until nothing may follow, or is cut.
    """

    def __init__(self, tokenizer: Tokenizer, grammar: str, wanted: str) -> None:
        self._tokenizer, self._grammar, self._wanted = tokenizer, grammar, wanted
        self._matcher = _library().LLMatcher(_vocabulary(tokenizer), grammar, log_level=0)
        if self._matcher.is_error():
            raise GptwrightError(f"{wanted} cannot be used: {_reason(self._matcher.get_error())}; give another")
        self._bits: np.ndarray | None = None
        self.mask()  # refuses at once what cannot even begin
        if self.finished:
            raise GptwrightError(f"{wanted} allows nothing but the empty text; give one that allows something")

    @classmethod
    def regex(cls, pattern: str, tokenizer: Tokenizer) -> Self:
        """Return the constraint that the whole continuation fits ``pattern`` (Rust's syntax: no look-around).

        Raises:
            GptwrightError: the pattern cannot be read, allows only the empty text or needs a character that
                ``tokenizer`` cannot say at its beginning; or llguidance is not installed.
        """
        grammar = json.loads(_library().LLMatcher.grammar_from_regex(pattern))
        for part in grammar["grammars"]:
            part["lark_grammar"] = _OPEN + part["lark_grammar"]
        return cls(tokenizer, json.dumps(grammar), f"the regular expression {pattern!r}")

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str, tokenizer: Tokenizer) -> Self:
        """Return the constraint that the continuation is one JSON value that ``schema`` describes.

        Properties come in the order in which the schema names them; white space is at most one space, where JSON
        allows any.

        Args:
            schema: a JSON Schema, as a dict or as JSON text.
            tokenizer: the model's.

        Raises:
            GptwrightError: the schema is no JSON object, allows nothing or uses a keyword that llguidance does not
                know; or llguidance is not installed.
        """
        options = {"x-guidance": {"whitespace_pattern": _WHITE_SPACE}}
        grammar = f"{_OPEN}start: %json {json.dumps({**_schema(schema), **options})}"
        return cls(tokenizer, grammar, "the JSON schema")

    def fresh(self) -> Self:
        """Return the same constraint for another sequence, at its beginning."""
        return type(self)(self._tokenizer, self._grammar, self._wanted)

    def mask(self) -> Tensor:
        """Return which of the tokenizer's ids may come next, bool (V,).

        Raises:
            GptwrightError: a character is needed that the tokenizer cannot say, or the parser reached a limit.
        """
        if self._bits is None:
            packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            size = self._tokenizer.vocab_size
            self._bits = np.unpackbits(packed, bitorder="little")[:size].astype(bool)
        if self._matcher.is_error():
            raise GptwrightError(self._stuck())
        return torch.from_numpy(self._bits)

    def take(self, token: int) -> None:
        """Take note of the token that came, one that `mask` allowed.

        Raises:
            GptwrightError: it was not allowed.
        """
        if token >= self._tokenizer.vocab_size or not self._matcher.consume_token(token):
            raise GptwrightError(f"token {token} breaks {self._wanted}; choose tokens by its mask")
        self._bits = None

    @property
    def finished(self) -> bool:
        """Whether the text fits and nothing but its end may follow."""
        if self._matcher.is_stopped():
            return not self._matcher.is_error()
        if not self._matcher.is_accepting():
            return False
        allowed = self.mask().nonzero().flatten().tolist()
        return allowed in ([], [self._tokenizer.eot_id])

    def _stuck(self) -> str:
        error = self._matcher.get_error()
        if not error.startswith("NoExtension"):
            return f"{self._wanted} cannot be followed further: {_reason(error)}; make it simpler"
        return (
            f"no token of this {self._tokenizer.type_name()} tokenizer can come next under {self._wanted}: it allows "
            "no text, or needs a character that the tokenizer cannot say; change it, or use a byte or bpe tokenizer"
        )


@dataclass(frozen=True)
class _Vocabulary:
    """A tokenizer as the library wants it."""

    tokens: list[bytes]
    eos_token_id: int
    special_token_ids: list[int]
    bos_token_id: int | None = None
    is_tokenizer_wrapper: bool = True

    def __call__(self, text: str) -> list[int]:
        """Return no ids: the library asks only where one text is forced, which our grammars switch off."""
        del text
        return []


_VOCABULARIES: WeakKeyDictionary[Tokenizer, Any] = WeakKeyDictionary()
"""The library's view of each tokenizer in use: a tree of all tokens, which takes a while to make."""


def _vocabulary(tokenizer: Tokenizer) -> Any:
    if tokenizer not in _VOCABULARIES:
        tokens = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        end = tokenizer.eot_id
        if end is None:  # the library needs one; this one is beyond the vocabulary, so nobody can choose it
            end = len(tokens)
            tokens.append(b"<|end|>")
        _VOCABULARIES[tokenizer] = _library().LLTokenizer(_Vocabulary(tokens, end, [end]))
    return _VOCABULARIES[tokenizer]


def _schema(schema: Mapping[str, Any] | str) -> dict[str, Any]:
    try:
        found = json.loads(schema if isinstance(schema, str) else json.dumps(schema))
    except (TypeError, ValueError) as error:
        raise GptwrightError(f"the JSON schema is no JSON ({error}); give an object such as {_EXAMPLE}") from None
    if not isinstance(found, dict):
        raise GptwrightError(f"the JSON schema is {found!r} and must be a JSON object; give one such as {_EXAMPLE}")
    return found


_EXAMPLE = '{"type": "object"}'


def _reason(error: str) -> str:
    """Return what the library found wrong, without the picture of its grammar and its own state."""
    found = re.search(r"^error: (.+)$", error, re.MULTILINE)  # the regular expression's own complaint
    words = found[1] if found else error.partition("\n")[0]
    return re.sub(r"^at \d+\(\d+\): |failed to compile JSON schema: ", "", words)


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise GptwrightError(
            "regex and json_schema need the package llguidance, which is not installed; "
            "pip install 'gptwright[constrain]'"
        ) from None
    return llguidance
