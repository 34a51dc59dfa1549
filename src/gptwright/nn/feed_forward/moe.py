"""Mixture of experts: each token visits the few feed-forwards that its router prefers."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from gptwright.nn.base import FeedForward, LayerContext
from gptwright.nn.slots import FEED_FORWARD, FeedForwardSlot
from gptwright.ops.experts import Experts, run_experts
from gptwright.ops.moe import Routes, dispatch, load_balance, rebalanced, route, visits, z_loss
from gptwright.ops.sequence import Sequence


class MoE(FeedForward):
    """Top-k routing over experts of any feed-forward: a token visits the few that its router prefers, none is dropped.

        sum over chosen e of weight_e(x) expert_e(x) + sum over shared s of shared_s(x)

    Shazeer et al., 2017, https://arxiv.org/abs/1701.06538; Fedus et al., 2021, https://arxiv.org/abs/2101.03961. Shared
    experts, which every token visits, follow DeepSeekMoE (Dai et al., 2024), sigmoid affinities DeepSeek-V3
    (https://arxiv.org/abs/2412.19437). In training the real tokens that visit each expert are counted; what the
    busiest expert had, over the mean, is logged as `expert_load`.
    """

    RESIDUAL_OUTPUTS = ("experts.*.down_proj.weight", "shared.*.down_proj.weight")
    KEPT_FP32 = ("expert_bias", "load")
    expert_bias: Tensor | None
    load: Tensor
    RECORDABLE = False  # which experts run depends on the token
    EXAMPLES = (
        {"n_experts": 4, "top_k": 2, "d_ff": 24},
        {"n_experts": 3, "top_k": 1, "expert": {"type": "mlp", "d_ff": 16}, "n_shared": 1},
        {
            "n_experts": 5,
            "top_k": 2,
            "d_ff": 16,
            "router": "sigmoid",
            "balance": "bias",
            "z_weight": 1e-3,
            "scale": 2.5,
        },
        {"n_experts": 3, "top_k": 2, "d_ff": 16, "balance": "none", "normalise": False},
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
        router: Literal["softmax", "sigmoid"] = "softmax"
        """How scores become affinities: `softmax` shares 1 out among the experts, `sigmoid` judges each by itself."""
        normalise: bool | None = None
        """Whether the affinities of a token's experts are divided by their sum to be weights. Default yes, but for
        `top_k` 1, where the constant 1 would teach the router nothing."""
        scale: PositiveFloat = 1.0
        """Factor of the weights of routed experts (`routed_scaling_factor` elsewhere)."""
        balance: Literal["loss", "bias", "none"] = "loss"
        """What keeps experts equally busy: `loss` a term of the training loss (Fedus et al., 2021), `bias` a number for
        each expert that is added to its affinity for choosing alone and moved after each step (Wang et al., 2024,
        https://arxiv.org/abs/2408.15664), `none` nothing."""
        balance_weight: NonNegativeFloat | None = None
        """Weight of the load-balancing loss. Default 0.01 with `balance: loss`, 0 with `bias`, which may have both."""
        balance_rate: NonNegativeFloat | None = None
        """How far a step moves the number of an expert with no tokens, or with twice its share, in `balance: bias`;
        nearer to the mean it is less in proportion. Default 0.01; 0 keeps them."""
        z_weight: NonNegativeFloat = 0.0
        """Weight of the router z-loss, which keeps scores small (Zoph et al., 2022, https://arxiv.org/abs/2202.08906)."""

        def check(self, ctx: LayerContext) -> Iterator[tuple[str, str]]:
            """Yield what does not fit."""
            if self.top_k > self.n_experts:
                yield (
                    "top_k",
                    f"top_k {self.top_k} must be at most n_experts {self.n_experts}; "
                    "choose fewer experts a token, or more experts",
                )
            if self.balance_weight and self.balance == "none":
                yield (
                    "balance_weight",
                    f"balance_weight {self.balance_weight} has no use with balance none; "
                    "leave it out, or balance by loss",
                )
            if self.balance_rate is not None and self.balance != "bias":
                yield (
                    "balance_rate",
                    f"balance_rate {self.balance_rate} has no use with balance {self.balance}; "
                    "leave it out, or balance by bias",
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

        @property
        def normalises(self) -> bool:
            """Whether the affinities of a token's experts are divided by their sum."""
            return self.top_k > 1 if self.normalise is None else self.normalise

        @property
        def loss_weight(self) -> float:
            """Weight of the load-balancing loss."""
            by_default = 0.01 if self.balance == "loss" else 0.0
            return by_default if self.balance_weight is None else self.balance_weight

        @property
        def rate(self) -> float:
            """How far each step moves the biases."""
            return 0.01 if self.balance_rate is None else self.balance_rate

        def num_params(self, ctx: LayerContext) -> int:
            """Count the router and all experts."""
            experts = self.n_experts + self.n_shared
            return ctx.d_model * self.n_experts + experts * self.expert_config().num_params(ctx)

        def active_params(self, ctx: LayerContext) -> int:
            """Count the router and the experts that one token passes through."""
            visited = self.top_k + self.n_shared
            return ctx.d_model * self.n_experts + visited * self.expert_config().active_params(ctx)

        def flops_per_token(self, ctx: LayerContext, context: int) -> int:
            """Count forward FLOPs a token: the router and the experts visited."""
            visited = self.top_k + self.n_shared
            return 2 * ctx.d_model * self.n_experts + visited * self.expert_config().flops_per_token(ctx, context)

        def tp_plan(self, ctx: LayerContext) -> dict[str, str]:
            """Cut each expert as it cuts itself; every device routes all tokens."""
            groups = ("experts", "shared") if self.n_shared else ("experts",)
            plan = self.expert_config().tp_plan(ctx)
            return {f"{group}.*.{name}": cut for group in groups for name, cut in plan.items()}

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
        self.router = nn.Linear(ctx.d_model, config.n_experts, bias=False)
        expert = config.expert_config()
        self.experts = Experts(expert.build(ctx) for _ in range(config.n_experts))
        self.shared = nn.ModuleList(expert.build(ctx) for _ in range(config.n_shared))
        bias = torch.zeros(config.n_experts) if config.balance == "bias" else None
        self.register_buffer("expert_bias", bias)
        self.register_buffer("load", torch.zeros(config.n_experts), persistent=False)

    def forward(self, x: Tensor, seq: Sequence) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D); in training, ask for balance through ``seq.aux_losses``."""
        flat = x.flatten(0, 1)  # (B*T, D)
        scores = F.linear(flat.float(), self.router.weight.float())  # routing stays in fp32
        config, run = self.config, partial(run_experts, self.experts, seq=seq)
        routes = route(
            scores,
            config.top_k,
            router=config.router,
            bias=self.expert_bias,
            normalise=config.normalises,
            scale=config.scale,
        )
        if self.training:
            self._observe(scores, routes, seq)
        out = dispatch(flat, routes.weights, routes.chosen, run, config.n_experts).view_as(x)
        for expert in self.shared:
            out = out + expert(x, seq)
        return out

    def _observe(self, scores: Tensor, routes: Routes, seq: Sequence) -> None:
        """Count who was visited, and ask for the losses; padding is no part of either."""
        config, real = self.config, seq.real.flatten()
        if config.loss_weight:
            seq.aux_losses.append(config.loss_weight * load_balance(routes.affinities, routes.chosen, real))
        if config.z_weight:
            seq.aux_losses.append(config.z_weight * z_loss(scores, real))
        # a layer that is computed again in the backward pass sees the same sequence again
        seq.once(("load", self.experts.key), lambda: self._count(visits(routes.chosen, real, config.n_experts)))

    @torch.no_grad()
    def _count(self, visited: Tensor) -> None:
        self.load.add_(visited)

    @torch.no_grad()
    def after_step(self) -> Mapping[str, float]:
        """Move the biases by the loads since the last step, forget these, and return the largest over their mean."""
        load = self.load.clone()
        self.load.zero_()
        if not load.any():
            return {}
        if self.expert_bias is not None:
            self.expert_bias.copy_(rebalanced(self.expert_bias, load, self.config.rate))
        return {"expert_load": float(load.max() / load.mean())}
