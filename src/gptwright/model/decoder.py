"""Rows of tokens that a model goes on with, each at its own place.

Shapes: n rows, T tokens fed at once, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.model.rows import Apart, Together, can_share
from gptwright.model.vocabulary import check_ids

if TYPE_CHECKING:
    from gptwright.model.gpt import GPT


class Decoder:
    """Decode states of several independent rows; a row is fed any number of tokens at a time.

    Rows never see each other, and what a row computes does not depend on the others. Logits are fp32.

    Args:
        model: the model, which is put into eval mode.
        rows: how many sequences there can be at once.
        length: tokens that rows are made for at first; states grow where a row needs more.
    """

    def __init__(self, model: "GPT", *, rows: int = 1, length: int | None = None) -> None:
        self.model = model.eval()
        self.rows = rows
        self._vocab = model.config.require_vocab_size()
        self.limit = model.config.position.limit(model.config.context(0))
        """Where positions end; None where they do not."""
        room = length or model.config.max_seq_len
        with torch.inference_mode():
            self._rows = (Together if can_share(model) else Apart)(model, rows, min(room, self.limit or room))

    @property
    def lengths(self) -> list[int]:
        """Tokens fed to each row."""
        return self._rows.lengths

    def is_full(self, row: int) -> bool:
        """Whether positions end where a row stands."""
        return self.limit is not None and self.lengths[row] >= self.limit

    def latest_half(self, ids: Sequence[int]) -> Sequence[int]:
        """Return what a text slides on with where positions end: the latest ids, half as many as positions."""
        return ids if self.limit is None else ids[-(self.limit // 2 or 1) :]

    def read(self, row: int, ids: Sequence[int], chunk: int) -> Tensor:
        """Feed ``ids`` to a row, ``chunk`` at a time; return the logits (V,) after the last. See `extend`."""
        last = (len(ids) - 1) // chunk * chunk
        for start in range(0, last, chunk):
            self.extend(row, ids[start : start + chunk])
        return self.extend(row, ids[last:])

    @torch.inference_mode()
    def extend(self, row: int, ids: Sequence[int], *, every: bool = False) -> Tensor:
        """Feed ``ids`` (T >= 1) to a row; return the logits (V,) after the last, or (T, V) after ``every`` one.

        Raises:
            GptwrightError: positions end before the last of them, or an id is unknown.
        """
        check_ids(ids, self._vocab)
        self._check_room(row, len(ids))
        logits = self._rows.extend(row, ids, every=every).clone()  # (T, V) or (1, V)
        return logits if every else logits[0]

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> Tensor:
        """Feed one token to each of the first rows; return their logits (n, V), which the next step writes over."""
        check_ids(ids, self._vocab)
        for row in range(len(ids)):
            self._check_room(row, 1)
        return self._rows.step(ids)

    def can_rewind(self, row: int, length: int) -> bool:
        """Whether a row can go back to its first ``length`` tokens."""
        return length == 0 or self._rows.keeps(row, length)

    @torch.inference_mode()
    def rewind(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a row, where `can_rewind` says that it is possible."""
        self._rows.seek(row, length)

    def clear(self, row: int) -> None:
        """Make a row empty."""
        self.rewind(row, 0)

    @torch.inference_mode()
    def snapshot(self, row: int) -> Any:
        """Return a copy of what a row knows, for `restore`."""
        return self._rows.snapshot(row)

    @torch.inference_mode()
    def restore(self, row: int, snapshot: Any) -> None:
        """Put a row back to where `snapshot` was taken."""
        self._rows.restore(row, snapshot)

    def can_copy(self, source: int, length: int) -> bool:
        """Whether the first ``length`` tokens of a row can be taken over by another."""
        return self.can_rewind(source, length)

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Give a row the first ``length`` tokens of another, or cut it to them."""
        if source == target:
            self._rows.seek(target, length)
        else:
            self._rows.take(source, target, length)

    def move(self, source: int, target: int) -> None:
        """Put a row in the place of another, and leave an empty one behind."""
        self.copy(source, target, self.lengths[source])
        self.clear(source)

    @torch.inference_mode()
    def prepare(self, count: int) -> None:
        """Set up what feeding ``count`` tokens at once to the first row needs, while that row is empty."""
        self._rows.prepare(count)

    def setup_seconds(self, row: int, count: int) -> float:
        """Return what feeding so many tokens to a row costs beside the work itself, the first time that it is done."""
        return self._rows.setup_seconds(row, count)

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return self._rows.nbytes

    def _check_room(self, row: int, count: int) -> None:
        if self.limit is not None and self.lengths[row] + count > self.limit:
            raise GptwrightError(
                f"{self.lengths[row] + count} tokens were given, but {self.model.config.position.type} positions end "
                f"at max_seq_len {self.limit}; shorten the input, or use positions that do not end (rotary)"
            )
