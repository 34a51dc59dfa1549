"""A vocab.json with its merges.txt, as the first GPTs came, made into what the ``tokenizers`` library reads."""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from gptwright.errors import DataError
from gptwright.tokenizer.base import EOT
from gptwright.tokenizer.folder import MERGES, VOCABULARY, settings

_WORD_END = "</w>"


def from_merges(files: Mapping[str, bytes]) -> Library:
    """Return the tokenizer of GPT-2 (byte-level), or of GPT-1 where tokens end in ``</w>`` (lower case, BERT's split).

    Raises:
        DataError: one of the two files is damaged, or they do not belong together.
    """
    vocabulary, merges = settings(files, VOCABULARY), _merges(files[MERGES])
    if not vocabulary or not all(isinstance(id, int) and id >= 0 for id in vocabulary.values()):
        raise DataError(f"{VOCABULARY} does not give each token a number: save the tokenizer again")
    first = any(token.endswith(_WORD_END) for token in vocabulary)
    try:
        return _first(vocabulary, merges) if first else _second(vocabulary, merges, settings(files))
    except Exception as error:  # the library raises bare Exception for merges of unknown tokens
        raise DataError(
            f"{VOCABULARY} and {MERGES} do not belong together ({error!s:.200}): give both of one model"
        ) from None


def _merges(content: bytes) -> list[tuple[str, str]]:
    lines = content.decode("utf-8", errors="replace").split("\n")
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise DataError(f"{MERGES} has the line {' '.join(wrong)!r:.80}, and each must hold two tokens: save it again")
    return pairs  # pyright: ignore[reportReturnType] - each was seen to hold two


def _second(vocabulary: dict[str, int], merges: list[tuple[str, str]], given: Mapping[str, Any]) -> Library:
    library = Library(models.BPE(vocab=vocabulary, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(given.get("add_prefix_space")))
    library.decoder = decoders.ByteLevel()
    _mark(library, EOT)
    return library


def _first(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Library:
    unknown = "<unk>" if "<unk>" in vocabulary else None
    library = Library(models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, end_of_word_suffix=_WORD_END))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.BPEDecoder(suffix=_WORD_END)
    _mark(library, "<unk>")
    return library


def _mark(library: Library, token: str) -> None:
    if library.token_to_id(token) is not None:
        library.add_special_tokens([AddedToken(token, special=True, normalized=False)])
