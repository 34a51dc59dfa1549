"""Self-attention: softmax(QK^T / sqrt(d_k)) V in heads, with the future masked.

Shapes: B batch, T tokens, H heads, d width of a head, D n_embd.
"""

from typing import Any

from torch import Tensor

from gptwright.dropin.slm.config import GPTConfig
from gptwright.nn.attention.softmax import Softmax
from gptwright.ops.attention import attention
from gptwright.ops.sequence import Sequence


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, (B, H, T, d), where no token sees a later one."""
    return attention(q, k, v, None, causal=True)


class MultiHeadAttention(Softmax):
    """The engine's softmax attention with `n_head` heads of `n_embd / n_head` features each."""

    def __init__(self, config: Any) -> None:
        model = GPTConfig.read(config).model()
        super().__init__(model.attention, model.context(0))

    def forward(self, x: Tensor, seq: Sequence | None = None, state: Any = None) -> Tensor:
        """Mix the tokens of ``x`` (B, T, D); ``seq`` describes rows with padding or several documents."""
        return super().forward(x, seq or Sequence.plain(*x.shape[:2], device=x.device), state)
