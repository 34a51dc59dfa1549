"""Local attention: every token sees the latest positions only."""

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from gptwright.nn.base import LayerContext
from gptwright.nn.scored import ScoredAttention
from gptwright.nn.state.ring import RingCache
from gptwright.ops.attention import attention
from gptwright.ops.attention_rules import Sight
from gptwright.ops.blocked_attention import blocked_attention
from gptwright.ops.decode_attention import decode_attention
from gptwright.ops.local_attention import MIN_BLOCK, local_attention
from gptwright.ops.sequence import Sequence


class Local(ScoredAttention):
    """Sliding-window attention, in time T x window: every token sees the latest positions only.

        out_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j,   i - window < j <= i

    Beltagy et al., 2020, https://arxiv.org/abs/2004.05150; Jiang et al., 2023, https://arxiv.org/abs/2310.06825.
    """

    EXAMPLES = (
        {"n_heads": 4, "window": 5},
        {"n_heads": 4, "n_kv_heads": 2, "window": 70},
        {"n_heads": 4, "window": 33, "scale": 0.3, "softcap": 5.0, "sinks": True},
    )

    class Config(ScoredAttention.Config):
        """Settings of local attention."""

        window: PositiveInt
        """Positions that a token sees, itself included."""

        def mixing_flops(self, ctx: LayerContext, context: int) -> int:
            """Count forward FLOPs a token of mixing over the window."""
            return super().mixing_flops(ctx, min(context, self.window))

        def state_bytes(self, ctx: LayerContext, length: int, element_size: int = 4) -> int:
            """Count the bytes of the ring, which has all its places from the start, and a spare one."""
            del length
            return super().state_bytes(ctx, self.window + 1, element_size)

    def init_state(self, batch: int, length: int, *, device: Any = None, dtype: torch.dtype | None = None) -> RingCache:
        """Return an empty ring of ``window`` tokens, whatever the length."""
        del length
        return RingCache(
            batch,
            self.kv_heads_here,
            self.config.window,
            self.head_dim,
            device=device,
            dtype=dtype or self.k_proj.weight.dtype,
        )

    def forward(self, x: Tensor, seq: Sequence, state: RingCache | None = None) -> Tensor:
        """Mix ``x`` (B, T, D); with a state, the window reaches into the tokens fed before."""
        q, k, v = self.project(x, seq)
        q, k = self.turn(q, k, seq)
        if state is not None and seq.ragged:
            state.place(k, v, seq)
            reach: dict[str, Any] = {"ring": state.window, "window": state.window, "scoring": self.scoring}
            return self.merge(decode_attention(q, state.k, state.v, seq.positions, **reach))
        if state is not None and state.length > 0 and seq.start is not None and len(seq) >= MIN_BLOCK:
            mixed = self._many(q, k, v, seq, state)
        elif state is not None and state.length > 0:
            keys, values, mask, key_positions = state.append(k.to(state.k.dtype), v.to(state.v.dtype), seq)
            keys, values, positions = keys.to(q.dtype), values.to(q.dtype), (seq.positions, key_positions)
            mixed = attention(q, keys, values, mask, scoring=self.scoring, positions=positions)
        else:
            if state is not None:
                state.write(k.to(state.k.dtype), v.to(state.v.dtype), seq)
            mixed = local_attention(q, k, v, seq, self.config.window, scoring=self.scoring)
        return self.merge(mixed)

    def _many(self, q: Tensor, k: Tensor, v: Tensor, seq: Sequence, state: RingCache) -> Tensor:
        """Mix many tokens at once that go on from what the ring remembers, by blocks."""
        keys, values, segments, key_positions = state.in_order(k.to(state.k.dtype), v.to(state.v.dtype), seq)
        sight = Sight(causal=True, window=self.config.window, segments=(seq.segments, segments))
        positions = (seq.positions, key_positions)
        scoring = self.scoring
        return blocked_attention(q, keys.to(q.dtype), values.to(q.dtype), sight, scoring=scoring, positions=positions)
