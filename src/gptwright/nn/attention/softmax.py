"""Softmax attention: every token sees all earlier ones of its document."""

from typing import Any

import torch
from torch import Tensor

from gptwright.nn.scored import ScoredAttention
from gptwright.nn.state.cache import KeyValueCache
from gptwright.ops.attention import attention
from gptwright.ops.decode_attention import decode_attention
from gptwright.ops.self_attention import self_attention
from gptwright.ops.sequence import Sequence


class Softmax(ScoredAttention):
    """Every token sees all earlier ones of its document: multi-head, grouped-query and multi-query attention.

        out_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j,   j <= i

    Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; Ainslie et al., 2023, https://arxiv.org/abs/2305.13245.
    """

    EXAMPLES = (
        {"n_heads": 4},
        {"n_heads": 4, "n_kv_heads": 2},
        {"n_heads": 4, "n_kv_heads": 1, "qk_norm": {"type": "rms_norm", "unit_offset": True}},
        {"n_heads": 4, "n_kv_heads": 2, "scale": 0.3, "softcap": 5.0, "sinks": True},
    )

    class Config(ScoredAttention.Config):
        """Settings of softmax attention."""

    def init_state(
        self, batch: int, length: int, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> KeyValueCache:
        """Return an empty cache for keys and values of ``length`` tokens; it grows when needed."""
        return KeyValueCache(
            batch,
            self.kv_heads_here,
            length,
            self.head_dim,
            device=device,
            dtype=dtype or self.k_proj.weight.dtype,
        )

    def forward(self, x: Tensor, seq: Sequence, state: KeyValueCache | None = None) -> Tensor:
        """Mix ``x`` (B, T, D); with a state, each token also sees the tokens fed before."""
        q, k, v = self.project(x, seq)
        q, k = self.turn(q, k, seq)
        if state is None:
            return self.merge(self_attention(q, k, v, seq, scoring=self.scoring))
        if seq.ragged:
            state.place(k, v, seq)
            return self.merge(decode_attention(q, state.k, state.v, seq.positions, scoring=self.scoring))
        first = state.columns.length == 0
        k, v = (x.to(q.dtype) for x in state.write(k.to(state.k.dtype), v.to(state.v.dtype), seq))
        if first:
            return self.merge(self_attention(q, k, v, seq, scoring=self.scoring))
        causal = state.columns.plain  # nothing but what comes later is hidden
        mask = None if causal else state.columns.mask(seq)
        positions = (seq.positions, state.positions)
        return self.merge(attention(q, k, v, mask, causal=causal, scoring=self.scoring, positions=positions))
