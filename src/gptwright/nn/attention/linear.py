"""Linear attention: a sum of key-value products instead of a cache."""

from typing import Any, Literal

import torch
from torch import Tensor

from gptwright.nn.base import LayerContext
from gptwright.nn.heads import NO_SCORES, HeadAttention
from gptwright.nn.state.recurrent import Recurrent
from gptwright.ops.linear_attention import FEATURES, Features, Memory, empty_memory, linear_attention
from gptwright.ops.sequence import Sequence


class Linear(HeadAttention):
    """Linear attention with positive features (Katharopoulos et al., 2020): O(T) time, O(1) state."""

    EXAMPLES = ({"n_heads": 4}, {"n_heads": 4, "n_kv_heads": 2, "feature_map": "relu"})

    class Config(HeadAttention.Config):
        """Settings of linear attention."""

        feature_map: Literal["elu", "relu"] = "elu"
        """Positive features of queries and keys: `elu` is elu(x) + 1, `relu` is relu(x) + 0.1."""

        WITHOUT = NO_SCORES

        def mixing_flops(self, ctx: LayerContext, context: int) -> int:
            """Count forward FLOPs a token of adding to the state and reading it, whatever the context."""
            del context
            return 4 * self.n_heads * self.width(ctx) ** 2

        def state_bytes(self, ctx: LayerContext, length: int, element_size: int = 4) -> int:
            """Count the bytes of the sums, kept in fp32."""
            del length, element_size
            width = self.width(ctx)
            return 4 * self.n_heads * width * (width + 1)

    def init_state(
        self, batch: int, length: int, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Recurrent[Memory]:
        """Return sums over no token, in fp32 whatever the length and dtype."""
        del length, dtype
        return Recurrent(empty_memory(batch, self.config.n_heads, self.head_dim, device))

    def forward(self, x: Tensor, seq: Sequence, state: Recurrent[Memory] | None = None) -> Tensor:
        """Mix ``x`` (B, T, D); with a state, on top of the sums over the tokens fed before."""
        q, k, v = self.project(x, seq)
        k, v = self._share(k), self._share(v)
        feature = FEATURES[self.config.feature_map]
        q_plain, k_plain = feature(q.float()), feature(k.float())
        features = Features(*self.turn(q_plain, k_plain, seq), q_plain, k_plain)
        if state is None:
            mixed, _ = linear_attention(features, v, seq)
        else:
            mixed, memory = linear_attention(features, v, seq, state.memory, state.goes_on(seq))
            state.update(memory, seq)
        return self.merge(mixed)

    def _share(self, x: Tensor) -> Tensor:
        """Give each group of query heads its key-value head: (B, K, T, d) -> (B, H, T, d)."""
        group = self.config.n_heads // self.config.kv_heads()
        return x.repeat_interleave(group, 1) if group > 1 else x
