"""AdamW: Adam with decoupled weight decay, in torch's fused kernel.

Source: Loshchilov and Hutter (2019), arXiv:1711.05101.
"""

from typing import Any

from pydantic import PositiveFloat

from gptwright.optim.adam import AdamWOptimizer, fused_supported
from gptwright.optim.base import Betas, OptimizerMaker


class AdamW(OptimizerMaker):
    """Two groups: matrices decay, while embeddings, norms and biases do not."""

    class Config(OptimizerMaker.Config):
        betas: Betas = (0.9, 0.95)
        """Memory of the gradient's running mean and of its square's."""
        eps: PositiveFloat = 1e-8
        """Added to the root of the squared mean before dividing by it."""

    EXAMPLES = (
        {},
        {"lr": 3e-4, "weight_decay": 0.0, "betas": [0.9, 0.999]},
        {"groups": [{"match": "layers.0", "lr_scale": 0.1}, {"match": "*norm*", "weight_decay": 0.1}]},
    )

    config: Config

    def optimizer(self, groups: list[dict[str, Any]]) -> AdamWOptimizer:
        """Return an optimizer that does what `torch.optim.AdamW` does, fused where the device has the kernel."""
        how = {"algorithm": "adamw", "betas": self.config.betas, "eps": self.config.eps}
        return AdamWOptimizer({**group, **how, "fused": fused_supported(group["params"])} for group in groups)
