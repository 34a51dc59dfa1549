"""Linear attention: a sum of key-value products instead of a cache."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptwright.nn.base import LayerContext
from gptwright.nn.heads import NO_SCORES, HeadAttention
from gptwright.nn.state.recurrent import Recurrent
from gptwright.ops.linear_attention import FEATURES, POSITIVE, Features, Memory, empty_memory, linear_attention
from gptwright.ops.norm import rms_norm
from gptwright.ops.sequence import Sequence

EPS = 1e-3
"""Added to the mean square of heads that are normalised instead of divided: where a query meets only keys at right
angles, what comes out is rounding, and a smaller number would blow it up to full size."""


class Linear(HeadAttention):
    """Linear attention, with or without decay: a sum of key-value products in O(T) time, with a state of fixed size.

        S_i = a_i S_(i-1) + f(k_i) v_i^T,   z_i = a_i z_(i-1) + f(k_i)
        out_i = f(q_i) S_i / (f(q_i) . z_i)   or, with `feature_map: identity`, rms_norm(q_i S_i)

    Katharopoulos et al., 2020, https://arxiv.org/abs/2006.16236; decay after RetNet (Sun et al., 2023,
    https://arxiv.org/abs/2307.08621) or gated (Yang et al., 2023, https://arxiv.org/abs/2312.06635).
    """

    KEPT_FP32 = ("log_decay",)
    log_decay: Tensor | None
    EXAMPLES = (
        {"n_heads": 4},
        {"n_heads": 4, "n_kv_heads": 2, "feature_map": "relu", "decay": "gated"},
        {"n_heads": 4, "feature_map": "identity", "decay": "retention"},
    )

    class Config(HeadAttention.Config):
        """Settings of linear attention."""

        feature_map: Literal["elu", "relu", "identity"] = "elu"
        """Features of queries and keys. Positive ones, `elu` (elu(x) + 1) and `relu` (relu(x) + 0.1), make a weighted
        mean of values; `identity` leaves queries and keys as they are, and each head's output is normalised by its root
        mean square instead (Qin et al., 2022, https://arxiv.org/abs/2210.10340)."""
        decay: Literal["none", "retention", "gated"] = "none"
        """How a head forgets at each token: `none` not at all; `retention` by the fixed factor 1 - 2^(-5 - h) of head h
        (Sun et al., 2023, https://arxiv.org/abs/2307.08621); `gated` by a factor that it makes of the token (Yang et
        al., 2023, https://arxiv.org/abs/2312.06635)."""

        WITHOUT = NO_SCORES

        @property
        def normalises(self) -> bool:
            """Whether outputs are divided by sums of features."""
            return self.feature_map in POSITIVE

        def mixing_flops(self, ctx: LayerContext, context: int) -> int:
            """Count forward FLOPs a token of adding to the state and reading it, whatever the context.

            That is the work of the recurrence; chunks do more in training, inside each.
            """
            del context
            return 4 * self.n_heads * self.width(ctx) ** 2

        def state_bytes(self, ctx: LayerContext, length: int, element_size: int = 4) -> int:
            """Count the bytes of the sums, kept in fp32."""
            del length, element_size
            width = self.width(ctx)
            return 4 * self.n_heads * width * (width + self.normalises)

        def tp_plan(self, ctx: LayerContext) -> dict[str, str]:
            """Cut by heads, with the decay that each head has."""
            own = {"none": (), "retention": ("log_decay",), "gated": ("decay_proj", "decay_bias")}
            return super().tp_plan(ctx) | dict.fromkeys(own[self.decay], "colwise")

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        fixed = retention(config.n_heads) if config.decay == "retention" else None
        self.register_buffer("log_decay", fixed, persistent=False)
        if config.decay == "gated":
            self.decay_proj = nn.Linear(ctx.d_model, config.n_heads, bias=False)
            self.decay_bias = nn.Parameter(slow_gates(config.n_heads))

    def init_state(
        self, batch: int, length: int, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Recurrent[Memory]:
        """Return sums over no token, in fp32 whatever the length and dtype."""
        del length, dtype
        heads = len(self.q_proj.weight) // self.head_dim
        return Recurrent(empty_memory(batch, heads, self.head_dim, normalise=self.config.normalises, device=device))

    def forward(self, x: Tensor, seq: Sequence, state: Recurrent[Memory] | None = None) -> Tensor:
        """Mix ``x`` (B, T, D); with a state, on top of the sums over the tokens fed before."""
        q, k, v = self.project(x, seq)
        mixed, memory = linear_attention(
            self.features(q, self._share(k), seq),
            self._share(v),
            seq,
            log_decay=self.log_decays(x),
            normalise=self.config.normalises,
            memory=None if state is None else state.memory,
        )
        if state is not None:
            state.update(memory, seq)
        return self.merge(mixed if self.config.normalises else rms_norm(mixed, None, EPS))

    def features(self, q: Tensor, k: Tensor, seq: Sequence) -> Features:
        """Return the features of queries and keys (B, H, T, d); positions turn those of the numerator."""
        if not self.config.normalises:
            return Features(*self.turn(q / math.sqrt(self.head_dim), k, seq))
        feature = FEATURES[self.config.feature_map]
        q, k = feature(q.float()), feature(k.float())
        q_turned, k_turned = self.turn(q, k, seq)
        return Features(q, k) if q_turned is q else Features(q_turned, k_turned, q, k)

    def log_decays(self, x: Tensor) -> Tensor | None:
        """Return the log of what each token of ``x`` (B, T, D) leaves of the sums: (B or 1, H, T) fp32, or None."""
        if self.config.decay == "gated":
            return F.logsigmoid(self.decay_proj(x).float() + self.decay_bias.float()).transpose(1, 2)
        return None if self.log_decay is None else self.log_decay[None, :, None].expand(1, -1, x.shape[1])

    def _share(self, x: Tensor) -> Tensor:
        """Give each group of query heads its key-value head: (B, K, T, d) -> (B, H, T, d)."""
        group = self.config.n_heads // self.config.kv_heads()
        return x.repeat_interleave(group, 1) if group > 1 else x


def retention(n_heads: int) -> Tensor:
    """Return the logarithm (H,) of each head's factor 1 - 2^(-5 - h)."""
    return torch.log1p(-(2.0 ** (-5 - torch.arange(n_heads))))


def slow_gates(n_heads: int) -> Tensor:
    """Return the biases (H,) of gates that at first forget within 32 tokens in the first head, and 512 in the last."""
    return torch.log(torch.logspace(5, 9, n_heads, base=2.0) - 1)
