"""What data asks of a tokenizer: enough to count, encode and keep it, without knowing any kind."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from gptwright.config.slot import ComponentConfig

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(stage, done, total)``; stages are waiting, read, tokenizer and tokenize."""

SplitName = Literal["train", "val"]


class TextTokenizer(Protocol):
    """A tokenizer as `prepare` uses it; `encode_batch` may be called from several threads."""

    vocab_size: int
    eot_id: int | None
    prefix_ids: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the ids."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int64."""
        ...

    def encode_spans(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of a text with special tokens in it, and of each whether it lies in one of ``spans``."""
        ...

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """Cut a text into pieces whose ids, joined, are the ids of the whole.

        All pieces but the last must be the same when more text follows: long documents come a part at a time.
        """
        ...

    def save(self, folder: str | Path) -> None:
        """Write it into ``folder``."""
        ...


class TokenizerMaker(Protocol):
    """Trains the tokenizer of a config, or reads it back from the folder ``saved``."""

    def __call__(
        self,
        config: ComponentConfig,
        texts: Callable[[Literal["train", "all"]], Iterable[str]],
        *,
        with_eot: bool,
        progress: Progress | None,
        saved: Path | None,
    ) -> TextTokenizer:
        """Return the tokenizer; ``texts`` gives the training split's documents, or all of them."""
        ...
