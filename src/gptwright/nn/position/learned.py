"""Learned positions."""

from typing import Any

import torch
from torch import Tensor, nn

from gptwright.errors import GptwrightError
from gptwright.nn.base import LayerContext, Position
from gptwright.ops.sequence import Sequence


class Learned(Position):
    """Add a learned vector for each of ``max_seq_len`` positions, as GPT-1 and GPT-2 do.

        x_i + table[i]

    Gehring et al., 2017, https://arxiv.org/abs/1705.03122.
    """

    class Config(Position.Config):
        """No settings: the table has `max_seq_len` rows."""

        def limit(self, ctx: LayerContext) -> int | None:
            """Return the number of rows in the table."""
            return ctx.max_seq_len

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        self.weight = nn.Parameter(torch.zeros(ctx.max_seq_len, ctx.d_model))

    def forward(self, x: Tensor, seq: Sequence) -> Tensor:
        """Add to ``x`` (B, T, D) the row of each token's position."""
        if seq.start is not None:
            return x + self._rows(seq.start, seq.start + len(seq))
        return x + self.weight[seq.positions]

    def _rows(self, start: int, stop: int) -> Tensor:
        if stop > len(self.weight):  # a slice would be short, and one row of it would serve all positions
            raise GptwrightError(
                f"{stop} tokens were given, but learned positions end at max_seq_len {len(self.weight)}; shorten the "
                "input, or use positions that do not end (rotary)"
            )
        return self.weight[start:stop]
