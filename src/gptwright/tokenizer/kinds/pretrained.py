"""The tokenizer of somebody else's model: any ``tokenizer.json`` that the ``tokenizers`` library reads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from tokenizers import Tokenizer as Library
from tokenizers import decoders
from tokenizers.processors import TemplateProcessing

from gptwright.errors import DataError
from gptwright.tokenizer import folder as files_of
from gptwright.tokenizer.assemble import assemble, ends_of, prefix_of
from gptwright.tokenizer.base import Progress, TextStream, Tokenizer, text_bytes, write_json
from gptwright.tokenizer.library import byte_table, cut_safely, encode_batch, splits_as_gpt2
from gptwright.tokenizer.window import Window, WindowStream, decoded

_PIECE = 1 << 16  # characters encoded as one piece, where text may be cut
_MOST_IDS = 1 << 24


class Pretrained(Tokenizer):
    """Encodes and decodes as the model's own tokenizer does, id for id."""

    class Config(Tokenizer.Config):
        """Settings of a pretrained tokenizer."""

        source: str | None = None
        """A folder with tokenizer.json (or vocab.json and merges.txt), such a file, or `owner/name` of the hub."""

        vocab_size: PositiveInt | None = None
        """Ids of the model, where its vocabulary is padded beyond the tokenizer's; the rest stand for nothing."""

        end_ids: tuple[NonNegativeInt, ...] = ()
        """Further ids that end a text, beside those that the folder names."""

    EXAMPLES: ClassVar[tuple[dict[str, Any], ...]] = ({"source": "my-model"},)

    def __init__(self, config: Config, contents: Mapping[str, bytes]) -> None:
        self._read_from = contents
        self._named = files_of.named_tokens(contents)
        self._library = assemble(contents, self._named, config.vocab_size)
        known = self._library.get_vocab(with_added_tokens=True)
        size = config.vocab_size or max(known.values(), default=-1) + 1
        if size > _MOST_IDS:
            raise DataError(f"the tokenizer has ids up to {size - 1:,}, and no vocabulary is that large: give another")
        self._named = {name: token for name, token in self._named.items() if token in known}
        ends = ends_of(self._named, known, [*config.end_ids, *files_of.end_ids(contents)], size)
        super().__init__(config, size, ends[0] if ends else None)
        self.config = config.model_copy(update={"source": None, "vocab_size": size, "end_ids": ends})
        self.end_ids = ends
        self.chat_template = files_of.chat_template(contents)
        if files_of.LIBRARY not in contents:
            self._take_asked_prefix(contents)
        self.prefix_ids = prefix_of(self._library)
        self._library.encode_special_tokens = True  # words that look like a special token are text, not control
        self._by_bytes = isinstance(self._library.decoder, decoders.ByteLevel)
        self._may_cut = splits_as_gpt2(self._library)

    @classmethod
    def train(cls, config: Config, texts: Iterable[str], *, with_eot: bool, progress: Progress | None = None) -> Self:
        """Load what ``config.source`` names; ``texts`` are not read.

        Raises:
            DataError: there is no source, or it holds no tokenizer.
        """
        del texts, with_eot, progress
        if config.source is None:
            raise DataError(
                "a pretrained tokenizer learns nothing and needs data.tokenizer.source: a folder with tokenizer.json, "
                "or owner/name of the Hugging Face hub"
            )
        return cls._read(files_of.find(config.source), config)

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, vocab_size: int | None = None, end_ids: Sequence[int] = ()
    ) -> "Pretrained":
        """Read the tokenizer of a model's folder (or a tokenizer.json); files beside it say how texts begin and end.

        Args:
            folder: what `Config.source` may be, on this machine.
            vocab_size: ids of the model, where they are more than the tokenizer's.
            end_ids: further ids that end a text.

        Raises:
            DataError: it holds no tokenizer, a damaged one, or files that lie outside of it.
        """
        return cls._read(Path(folder), cls.Config(vocab_size=vocab_size, end_ids=tuple(end_ids)))

    def fitted(self, *, vocab_size: int, end_ids: Sequence[int] = ()) -> "Pretrained":
        """Return the same tokenizer with as many ids as a model has, and further ids that end a text."""
        given = {"vocab_size": vocab_size, "end_ids": (*self.end_ids, *end_ids)}
        return type(self)(self.config.model_copy(update=given), self._read_from)

    @classmethod
    def _read(cls, place: Path, config: Config) -> Self:
        try:
            return cls(config, files_of.read(place))
        except DataError as error:
            known = str(place) in str(error)
            raise error if known else DataError(f"the tokenizer in {place} cannot be used: {error}") from None

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of ``text``, int64 (n,), without what texts begin with; special tokens in it are text."""
        parts = self.encode_batch(list(self.pieces(text, _PIECE)))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int64, encoded on the library's own threads."""
        return encode_batch(self._library, texts)

    def encode_marked(self, text: str) -> np.ndarray:
        """Return the ids of ``text``, int64 (n,), special tokens in it as control ids."""
        return encode_batch(self._marked, [text])[0]

    def encode_spans(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of `encode_marked`, and of each whether it holds any character of ``spans``, bool (n,)."""
        text_bytes(text, "utf-8")
        found = self._marked.encode(text, add_special_tokens=False)
        inside = np.zeros(len(text) + 1, dtype=np.int64)
        for start, end in spans:
            inside[start + 1 : end + 1] = 1
        before = np.cumsum(inside)  # how many characters of spans come before each place
        starts, ends = np.array(found.offsets, dtype=np.int64).reshape(-1, 2).T
        return np.array(found.ids, dtype=np.int64), before[ends] > before[starts]

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that ``id`` stands for between other tokens; exact for byte-level tokenizers.

        Others may write a token otherwise at the beginning or end of a text, and their text may have been changed
        (lower case, Unicode forms) before it was encoded: there it is the best that can be told of a token alone.
        """
        return self._table[id]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of ``ids``, special tokens as they are written; rows beyond the tokenizer give nothing.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        return decoded(self._library, self._checked(ids))

    def stream(self) -> TextStream:
        """Return a decoder for ids that come one at a time; its pieces join to what `decode` gives."""
        return TextStream(self) if self._by_bytes else WindowStream(self._window)

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """Cut as bpe does where text is split as there, else not at all."""
        if self._may_cut:
            yield from cut_safely(text, size)
        elif text:
            yield text

    @property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens that the model's settings name, such as ``eos_token``."""
        return dict(self._named)

    def contents(self) -> dict[str, bytes]:
        """Return the library's ``tokenizer.json``, and settings with the named tokens and the chat template."""
        template = {} if self.chat_template is None else {"chat_template": self.chat_template}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **self._named, **template}
        return {
            files_of.LIBRARY: self._library.to_str(pretty=False).encode(),
            files_of.SETTINGS: write_json({**settings, "clean_up_tokenization_spaces": False}),
        }

    @classmethod
    def from_contents(cls, config: Config, contents: dict[str, bytes]) -> Self:
        """Make the tokenizer again.

        Raises:
            DataError: it is damaged.
        """
        if files_of.LIBRARY not in contents:
            raise DataError(f"the saved tokenizer has no readable {files_of.LIBRARY}: save it again")
        return cls(config, contents)

    @cached_property
    def _marked(self) -> Library:
        """The same tokenizer, which takes special tokens in a text for control; changing one is not thread-safe."""
        return Library.from_str(self._library.to_str())

    @cached_property
    def _window(self) -> Window:
        return Window(self._library)

    @cached_property
    def _table(self) -> list[bytes]:
        if self._by_bytes:
            return byte_table(self._library, self.vocab_size)
        return [self._window.middle(id) for id in range(self.vocab_size)]

    def _take_asked_prefix(self, contents: Mapping[str, bytes]) -> None:
        """Put what settings alone ask texts to begin with where a tokenizer.json has it."""
        token = self._named.get("bos_token", "")
        asked = files_of.settings(contents).get("add_bos_token") is True
        begin = self._library.token_to_id(token) if asked else None
        if begin is not None:
            begins = TemplateProcessing(single=[token, "$A"], special_tokens=[(token, begin)])
            self._library.post_processor = begins  # pyright: ignore[reportAttributeAccessIssue]
