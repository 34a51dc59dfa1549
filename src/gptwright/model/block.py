"""Blocks: how an attention and a feed-forward are wired to the residual stream.

Each wiring is a class of a few lines. Note what `Pre` does not do: it never normalises the residual
stream itself (``x = norm(x); x = x + part(x)``), which would cut the path that gradients take.

Shapes: B batch, T query positions, D d_model.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from gptwright.nn.base import Norm
from gptwright.nn.state.base import State
from gptwright.nn.state.replay import Replay
from gptwright.ops.sequence import Sequence

if TYPE_CHECKING:
    from gptwright.model.config import ModelConfig


class Block(nn.Module):
    """An attention, a feed-forward and the norms around them."""

    NORMS: ClassVar[tuple[str, ...]] = ("attention_norm", "feed_forward_norm")
    attention_norm: Norm
    attention_post_norm: Norm
    feed_forward_norm: Norm
    feed_forward_post_norm: Norm

    def __init__(self, config: "ModelConfig", index: int) -> None:
        super().__init__()
        ctx = config.context(index)
        attention, feed_forward = config.layer(index)
        for name in self.NORMS:
            self.add_module(name, config.norm.build(ctx))
        self.attention = attention.build(ctx)
        self.feed_forward = feed_forward.build(ctx)
        self.dropout = nn.Dropout(config.dropout)

    def mix(self, x: Tensor, seq: Sequence, state: State | None) -> Tensor:
        """Return the attention's output, dropped out."""
        if isinstance(state, Replay):
            return self.dropout(state.run(self.attention, x, seq))
        return self.dropout(self.attention(x, seq, state))

    def think(self, x: Tensor, seq: Sequence) -> Tensor:
        """Return the feed-forward's output, dropped out."""
        return self.dropout(self.feed_forward(x, seq))


class Pre(Block):
    """Norm before each part (Xiong et al., 2020; GPT-2)."""

    def forward(self, x: Tensor, seq: Sequence, state: State | None = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        x = x + self.mix(self.attention_norm(x), seq, state)
        return x + self.think(self.feed_forward_norm(x), seq)


class Post(Block):
    """Norm after each sum (Vaswani et al., 2017; GPT-1)."""

    def forward(self, x: Tensor, seq: Sequence, state: State | None = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        x = self.attention_norm(x + self.mix(x, seq, state))
        return self.feed_forward_norm(x + self.think(x, seq))


class Sandwich(Block):
    """Norm on both sides of each part (Ding et al., 2021; Gemma 2)."""

    NORMS = ("attention_norm", "attention_post_norm", "feed_forward_norm", "feed_forward_post_norm")

    def forward(self, x: Tensor, seq: Sequence, state: State | None = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        x = x + self.attention_post_norm(self.mix(self.attention_norm(x), seq, state))
        return x + self.feed_forward_post_norm(self.think(self.feed_forward_norm(x), seq))


class Parallel(Block):
    """Both parts side by side on one norm (Wang and Komatsuzaki, 2021: GPT-J)."""

    NORMS = ("attention_norm",)

    def forward(self, x: Tensor, seq: Sequence, state: State | None = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        normed = self.attention_norm(x)
        return x + self.mix(normed, seq, state) + self.think(normed, seq)


WIRINGS: dict[str, type[Any]] = {"pre": Pre, "post": Post, "sandwich": Sandwich, "parallel": Parallel}


def norms_per_block(wiring: str) -> int:
    """Return how many norms stand in one block."""
    return len(WIRINGS[wiring].NORMS)
