"""Muon for the matrices of the blocks, AdamW for embeddings, head, norms and biases.

The rule itself is in `gptwright.optim.muon`; here are its settings.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn

from gptwright.ops.precision import Precision, choose
from gptwright.optim.adam import fused_supported
from gptwright.optim.base import Beta, Betas, OptimizerMaker
from gptwright.optim.muon import MuonAdamW
from gptwright.optim.roles import Roles


class Muon(OptimizerMaker):
    """One optimizer object: a Muon group of the block matrices, and AdamW groups of everything else."""

    class Config(OptimizerMaker.Config):
        lr: PositiveFloat = 0.02
        """Peak learning rate of the block matrices: about how far each direction's gain moves in one step."""
        weight_decay: NonNegativeFloat = 0.01
        """Decoupled decay per unit of learning rate, of block matrices (times lr) and the head (times its
        own)."""
        momentum: Beta = 0.95
        """How much of the gradient's running mean is kept each step."""
        nesterov: bool = True
        """Look ahead: mix the new gradient into the momentum once more before orthogonalising."""
        cautious: bool = False
        """Decay a weight of a block matrix only where this step's update shrinks it too."""
        ns_steps: PositiveInt = 5
        """Newton-Schulz iterations; 5 bring the singular values to between about 0.7 and 1.2."""
        ns_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
        """Format of the Newton-Schulz products; auto is bfloat16 where the run computes in bf16, else
        float32."""
        adam_lr: PositiveFloat = 3e-3
        """Peak learning rate of all that Muon does not take: embeddings, head, norms, biases."""
        embedding_lr: PositiveFloat | None = None
        """Peak learning rate of the token and position tables; null means adam_lr."""
        head_lr: PositiveFloat | None = None
        """Peak learning rate of an untied output matrix; null means adam_lr."""
        adam_betas: Betas = (0.9, 0.95)
        """Adam's memory of the gradient's running mean and of its square's."""
        adam_eps: Annotated[float, Field(gt=0)] = 1e-8
        """Added to the root of the squared mean before dividing by it."""

    EXAMPLES = (
        {},
        {"lr": 0.01, "cautious": True, "weight_decay": 0.1, "ns_dtype": "float32", "head_lr": 1e-3},
    )

    config: Config

    def param_groups(self, found: Roles, precision: Precision | None) -> list[dict[str, Any]]:
        """Return the groups muon, embedding, head, other and vector."""
        settings = self.config
        adam_lr, decay = settings.adam_lr, settings.weight_decay
        groups = [
            self._adam_group("embedding", found.embeddings, settings.embedding_lr or adam_lr, 0.0),
            self._adam_group("head", found.head, settings.head_lr or adam_lr, decay),
            self._adam_group("other", found.others, adam_lr, decay),
            self._adam_group("vector", found.vectors, adam_lr, 0.0),
        ]
        return [self._muon_group(found.matrices, precision), *groups] if found.matrices else groups

    def optimizer(self, groups: list[dict[str, Any]]) -> MuonAdamW:
        """Return a `MuonAdamW`."""
        return MuonAdamW(groups)

    def _muon_group(self, matrices: list[nn.Parameter], precision: Precision | None) -> dict[str, Any]:
        kept = {"lr", "momentum", "nesterov", "weight_decay", "cautious", "ns_steps"}
        return {
            "name": "muon",
            "algorithm": "muon",
            "params": matrices,
            # A word, not a torch.dtype, so that it is saved: a resumed run goes on in the format it began
            # with.
            "ns_dtype": self._ns_dtype(matrices[0].device, precision),
            **self.config.model_dump(include=kept),
        }

    def _adam_group(self, name: str, params: list[nn.Parameter], lr: float, decay: float) -> dict[str, Any]:
        return {
            "name": name,
            "algorithm": "adamw",
            "params": params,
            "lr": lr,
            "betas": self.config.adam_betas,
            "eps": self.config.adam_eps,
            "weight_decay": decay,
            "fused": fused_supported(params),
        }

    def _ns_dtype(self, device: torch.device, precision: Precision | None) -> str:
        if self.config.ns_dtype != "auto":
            return self.config.ns_dtype
        precision = precision or choose("auto", device)
        return "bfloat16" if precision.compute_dtype is torch.bfloat16 else "float32"
