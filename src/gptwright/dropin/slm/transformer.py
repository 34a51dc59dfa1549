"""The transformer block: attention and feed-forward, each as ``output = sublayer(norm(x)) + x``.

Shapes: B batch, T tokens, D n_embd.
"""

from typing import Any

from torch import Tensor

from gptwright.dropin.slm.config import GPTConfig
from gptwright.model.block import Pre
from gptwright.nn.feed_forward.mlp import MLP
from gptwright.ops.sequence import Sequence


class FeedForward(MLP):
    """Two linear layers with ReLU between them."""

    def __init__(self, config: Any) -> None:
        model = GPTConfig.read(config).model()
        super().__init__(model.feed_forward, model.context(0))

    def forward(self, x: Tensor, seq: Sequence | None = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D), token by token."""
        return super().forward(x, seq)  # pyright: ignore[reportArgumentType]


class TransformerBlock(Pre):
    """The engine's pre-norm block, usable by itself: it has the weights of each of a `GPT`'s `layers`."""

    def __init__(self, config: Any) -> None:
        super().__init__(GPTConfig.read(config).model(), 0)

    def forward(self, x: Tensor, seq: Sequence | None = None, state: Any = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D); ``seq`` describes rows with padding or several documents."""
        return super().forward(x, seq or Sequence.plain(*x.shape[:2], device=x.device), state)
