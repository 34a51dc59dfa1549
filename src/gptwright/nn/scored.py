"""What attentions by softmax share: everything that happens to scores before they become weights.

Shapes: H query heads.
"""

from typing import Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from gptwright.nn.base import Attention, LayerContext
from gptwright.nn.heads import HeadAttention
from gptwright.ops.attention_rules import Scoring


class Scored(Attention):
    """Attention whose weights are a softmax of scores, whatever queries and keys are made of."""

    TAKES_SLOPES = True
    KEPT_FP32 = ("slopes",)
    slopes: Tensor | None

    class Config(Attention.Config):
        """Settings of attentions by softmax."""

        n_heads: PositiveInt
        """Query heads."""
        scale: PositiveFloat | None = None
        """Factor of the products of queries and keys (`query_pre_attn_scalar` elsewhere is 1 / scale^2). Default
        1 / sqrt(width of a key)."""
        softcap: PositiveFloat | None = None
        """Bound c of the scores, c * tanh(score / c), as Gemma 2 (https://arxiv.org/abs/2408.00118). Default none."""
        sinks: bool = False
        """Whether each head learns a score that takes part in the softmax and carries no value, so that a head may
        look at nothing (gpt-oss, https://arxiv.org/abs/2508.10925)."""
        attention_dropout: float = Field(default=0.0, ge=0, lt=1)
        """Probability of dropping an attention weight in training."""

        def tp_plan(self, ctx: LayerContext) -> dict[str, str]:
            """Cut by heads, with what each head has of its own."""
            own = {"sinks": "colwise"} if self.sinks else {}
            slopes = {"slopes": "colwise"} if ctx.position.slopes(1) is not None else {}
            return super().tp_plan(ctx) | own | slopes

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        slopes = ctx.position.slopes(config.n_heads)
        self.register_buffer("slopes", None if slopes is None else torch.tensor(slopes), persistent=False)
        self.sinks = nn.Parameter(torch.zeros(config.n_heads)) if config.sinks else None

    @property
    def scoring(self) -> Scoring:
        """What is done to scores now: no dropout in eval mode."""
        dropout = self.config.attention_dropout if self.training else 0.0
        return Scoring(self.config.softcap, self.slopes, self.sinks, self.config.scale, dropout)


class ScoredAttention(Scored, HeadAttention):
    """Attention with heads whose weights are a softmax of scores."""

    class Config(Scored.Config, HeadAttention.Config):
        """Settings of attentions with heads by softmax."""
