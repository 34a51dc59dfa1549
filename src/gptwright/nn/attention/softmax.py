"""Softmax attention: every token sees all earlier ones of its document."""

from typing import Any

import torch
from torch import Tensor

from gptwright.nn.scored import ScoredAttention
from gptwright.nn.state.cache import KeyValueCache
from gptwright.ops.attention import attention
from gptwright.ops.sequence import Sequence


class Softmax(ScoredAttention):
    """Multi-head, grouped-query and multi-query attention (Vaswani et al., 2017; Ainslie et al., 2023)."""

    EXAMPLES = (
        {"n_heads": 4},
        {"n_heads": 4, "n_kv_heads": 2},
        {"n_heads": 4, "n_kv_heads": 1, "qk_norm": "rms_norm"},
        {"n_heads": 4, "n_kv_heads": 2, "softcap": 5.0, "sinks": True},
    )

    class Config(ScoredAttention.Config):
        """Settings of softmax attention."""

    def init_state(
        self, batch: int, length: int, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> KeyValueCache:
        """Return an empty cache for keys and values of ``length`` tokens; it grows when needed."""
        return KeyValueCache(
            batch,
            self.config.kv_heads(),
            length,
            self.head_dim,
            device=device,
            dtype=dtype or self.k_proj.weight.dtype,
        )

    def forward(self, x: Tensor, seq: Sequence, state: KeyValueCache | None = None) -> Tensor:
        """Mix ``x`` (B, T, D); with a state, each token also sees the tokens fed before."""
        q, k, v = self.project(x, seq)
        q, k = self.turn(q, k, seq)
        first = state is None or state.columns.length == 0
        mask, key_positions = None, seq.positions
        if state is not None:
            k, v, mask = state.append(k.to(state.k.dtype), v.to(state.v.dtype), seq)
            key_positions = state.positions
        causal = first and seq.is_causal
        if causal:
            mask = None
        elif state is None:
            mask = seq.visible()
        k, v, positions = k.to(q.dtype), v.to(q.dtype), (seq.positions, key_positions)
        return self.merge(attention(q, k, v, mask, causal=causal, scoring=self.scoring, positions=positions))
