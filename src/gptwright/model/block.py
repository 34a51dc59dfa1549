"""Blocks: how an attention and a feed-forward are wired to the residual stream.

Each wiring is a class of a few lines. Note what `Pre` does not do: it never normalises the residual
stream itself (``x = norm(x); x = x + part(x)``), which would cut the path that gradients take.

Shapes: B batch, T query positions, D d_model.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
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
    attention_scale: Tensor | None
    feed_forward_scale: Tensor | None

    def __init__(self, config: "ModelConfig", index: int) -> None:
        super().__init__()
        ctx = config.context(index)
        attention, feed_forward = config.layer(index)
        for name in self.NORMS:
            self.add_module(name, config.norm.build(ctx))
        self.attention = attention.build(ctx)
        self.feed_forward = feed_forward.build(ctx)
        self.dropout = nn.Dropout(config.dropout)
        self.residual_factor = config.residual_factor
        for name in ("attention_scale", "feed_forward_scale"):
            scale = None if config.layer_scale is None else torch.full((config.d_model,), config.layer_scale)
            self.register_parameter(name, None if scale is None else nn.Parameter(scale))

    def add(self, x: Tensor, out: Tensor, scale: Tensor | None) -> Tensor:
        """Return ``x`` with a part's output added to it, scaled as the settings say."""
        return torch.add(x, out if scale is None else out * scale, alpha=self.residual_factor)

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
        x = self.add(x, self.mix(self.attention_norm(x), seq, state), self.attention_scale)
        return self.add(x, self.think(self.feed_forward_norm(x), seq), self.feed_forward_scale)


class Post(Block):
    """Norm after each sum (Vaswani et al., 2017; GPT-1)."""

    def forward(self, x: Tensor, seq: Sequence, state: State | None = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        x = self.attention_norm(self.add(x, self.mix(x, seq, state), self.attention_scale))
        return self.feed_forward_norm(self.add(x, self.think(x, seq), self.feed_forward_scale))


class Sandwich(Block):
    """Norm on both sides of each part (Ding et al., 2021; Gemma 2)."""

    NORMS = ("attention_norm", "attention_post_norm", "feed_forward_norm", "feed_forward_post_norm")

    def forward(self, x: Tensor, seq: Sequence, state: State | None = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        mixed = self.attention_post_norm(self.mix(self.attention_norm(x), seq, state))
        x = self.add(x, mixed, self.attention_scale)
        thought = self.feed_forward_post_norm(self.think(self.feed_forward_norm(x), seq))
        return self.add(x, thought, self.feed_forward_scale)


class Parallel(Block):
    """Both parts side by side on one norm (Wang and Komatsuzaki, 2021: GPT-J)."""

    NORMS = ("attention_norm",)

    def forward(self, x: Tensor, seq: Sequence, state: State | None = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        normed = self.attention_norm(x)
        x = self.add(x, self.mix(normed, seq, state), self.attention_scale)
        return self.add(x, self.think(normed, seq), self.feed_forward_scale)


class ParallelNorms(Block):
    """Both parts side by side, each on a norm of its own (Black et al., 2022: GPT-NeoX)."""

    def forward(self, x: Tensor, seq: Sequence, state: State | None = None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        mixed, thought = self.mix(self.attention_norm(x), seq, state), self.think(self.feed_forward_norm(x), seq)
        return self.add(self.add(x, mixed, self.attention_scale), thought, self.feed_forward_scale)


WIRINGS: dict[str, type[Any]] = {
    "pre": Pre,
    "post": Post,
    "sandwich": Sandwich,
    "parallel": Parallel,
    "parallel_norms": ParallelNorms,
}


def norms_per_block(wiring: str) -> int:
    """Return how many norms stand in one block."""
    return len(WIRINGS[wiring].NORMS)
