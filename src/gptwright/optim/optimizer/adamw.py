"""AdamW: Adam with decoupled weight decay, in torch's fused kernel.

Source: Loshchilov and Hutter (2019), arXiv:1711.05101.
"""

import torch
from pydantic import PositiveFloat
from torch import nn

from gptwright.ops.precision import Precision
from gptwright.optim.adam import fused_supported
from gptwright.optim.base import Betas, OptimizerMaker
from gptwright.optim.groups import roles


class AdamW(OptimizerMaker):
    """Two groups: matrices decay, while embeddings, norms and biases do not."""

    class Config(OptimizerMaker.Config):
        betas: Betas = (0.9, 0.95)
        """Memory of the gradient's running mean and of its square's."""
        eps: PositiveFloat = 1e-8
        """Added to the root of the squared mean before dividing by it."""

    EXAMPLES = ({}, {"lr": 3e-4, "weight_decay": 0.0, "betas": [0.9, 0.999]})

    config: Config

    def build(self, model: nn.Module, *, precision: Precision | None = None) -> torch.optim.AdamW:
        """Return `torch.optim.AdamW`, fused where the device has the kernel."""
        del precision
        found, settings = roles(model), self.config
        decayed = [*found.matrices, *found.others, *found.head]
        kept = [*found.embeddings, *found.vectors]
        groups = [
            {"name": "decay", "params": decayed, "weight_decay": settings.weight_decay},
            {"name": "no_decay", "params": kept, "weight_decay": 0.0},
        ]
        groups = [{**group, "initial_lr": settings.lr} for group in groups if group["params"]]
        fused = fused_supported([*decayed, *kept])
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=fused)
