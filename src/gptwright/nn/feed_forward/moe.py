"""Mixture of experts: each token visits the few feed-forwards that its router prefers."""

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from gptwright.nn.base import FeedForward, LayerContext
from gptwright.nn.slots import FEED_FORWARD, FeedForwardSlot
from gptwright.ops.moe import dispatch, load_balance, route
from gptwright.ops.sequence import Sequence


class MoE(FeedForward):
    """Top-k routing over experts of any feed-forward, no token dropped (Shazeer et al., 2017; Fedus et al., 2021).

    Shared experts, which every token visits, follow DeepSeekMoE (Dai et al., 2024).
    """

    RESIDUAL_OUTPUTS = ("experts.*.down_proj.weight", "shared.*.down_proj.weight")
    EXAMPLES = (
        {"n_experts": 4, "top_k": 2, "d_ff": 24},
        {"n_experts": 3, "top_k": 1, "expert": {"type": "mlp", "d_ff": 16}, "n_shared": 1},
    )

    class Config(FeedForward.Config):
        """Settings of the mixture."""

        n_experts: PositiveInt
        """Experts to choose from."""
        top_k: PositiveInt = 2
        """Experts that each token visits, at most `n_experts`."""
        d_ff: PositiveInt | None = None
        """Inner width of each expert; a shorthand for `expert.d_ff`."""
        expert: FeedForwardSlot = Field(default_factory=FEED_FORWARD.default("glu"))
        """The feed-forward that each expert is. Default `glu`."""
        n_shared: int = Field(default=0, ge=0)
        """Experts that every token visits besides."""
        balance_weight: NonNegativeFloat = 0.01
        """Weight of the load-balancing loss (Fedus et al., 2021); 0 switches it off."""

        def check(self, ctx: LayerContext) -> Iterator[tuple[str, str]]:
            """Yield what does not fit."""
            if self.top_k > self.n_experts:
                yield (
                    "top_k",
                    f"top_k {self.top_k} must be at most n_experts {self.n_experts}; "
                    "choose fewer experts a token, or more experts",
                )
            yield from ((f"expert.{key}", sentence) for key, sentence in self.expert_config().check(ctx))
            if self.d_ff and "d_ff" not in type(self.expert).model_fields:
                yield (
                    "d_ff",
                    f"d_ff {self.d_ff} has no meaning for experts of type {self.expert.type}; leave it out",
                )

        def expert_config(self) -> FeedForward.Config:
            """Return the settings of one expert."""
            if self.d_ff and "d_ff" in type(self.expert).model_fields:
                return self.expert.model_copy(update={"d_ff": self.d_ff})
            return self.expert

        def active_params(self, ctx: LayerContext) -> int:
            """Count the parameters that one token passes through."""
            idle = self.n_experts - self.top_k
            return self.num_params(ctx) - idle * self.expert_config().num_params(ctx)

        def flops_per_token(self, ctx: LayerContext, context: int) -> int:
            """Count forward FLOPs a token: the router and the experts visited."""
            visited = self.top_k + self.n_shared
            return 2 * ctx.d_model * self.n_experts + visited * self.expert_config().flops_per_token(ctx, context)

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        self.router = nn.Linear(ctx.d_model, config.n_experts, bias=False)
        expert = config.expert_config()
        self.experts = nn.ModuleList(expert.build(ctx) for _ in range(config.n_experts))
        self.shared = nn.ModuleList(expert.build(ctx) for _ in range(config.n_shared))

    def forward(self, x: Tensor, seq: Sequence) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D); in training, ask for balance through ``seq.aux_losses``."""
        flat = x.flatten(0, 1)  # (B*T, D)
        scores = torch.nn.functional.linear(flat.float(), self.router.weight.float())  # routing stays in fp32
        weights, chosen, probs = route(scores, self.config.top_k)
        if self.training and self.config.balance_weight:
            seq.aux_losses.append(self.config.balance_weight * load_balance(probs, chosen, seq.real.flatten()))
        experts = [self._as_function(expert, seq) for expert in self.experts]
        out = dispatch(flat, weights, chosen, experts).view_as(x)
        for expert in self.shared:
            out = out + expert(x, seq)
        return out

    @staticmethod
    def _as_function(expert: nn.Module, seq: Sequence) -> Any:
        return lambda tokens: expert(tokens[None], seq)[0]
