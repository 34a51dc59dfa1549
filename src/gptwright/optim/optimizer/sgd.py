"""Stochastic gradient descent with momentum: the gradient itself, averaged.

Transformers learn much more slowly with it than with AdamW, since their gradients differ in size from place to place;
it is the plainest thing to compare with. The rule itself is in `gptwright.optim.sgd`; here are its settings.
"""

from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from gptwright.optim.adam import fused_supported
from gptwright.optim.base import Beta, OptimizerMaker
from gptwright.optim.sgd import SGDOptimizer


class SGD(OptimizerMaker):
    """Two groups, as for AdamW: matrices decay, while embeddings, norms and biases do not."""

    class Config(OptimizerMaker.Config):
        lr: PositiveFloat = 0.1
        """Peak learning rate; with momentum 0.9 the steps add up to ten times as much."""
        weight_decay: NonNegativeFloat = 1e-3
        """Decay of matrices, per unit of learning rate. Embeddings, norms and biases are never decayed."""
        decay: Literal["decoupled", "classic"] = "decoupled"
        """Whether a step shrinks the weights by lr * weight_decay, or weight_decay * weight is added to the gradient
        and so passes through the momentum, as in `torch.optim.SGD`."""
        momentum: Beta = 0.9
        """How much of the summed gradients is kept each step; 0 keeps no state."""
        nesterov: bool = True
        """Look ahead: add the new gradient to the momentum once more. Means nothing without momentum."""

    EXAMPLES = ({}, {"momentum": 0.0}, {"decay": "classic", "weight_decay": 1e-4, "nesterov": False})

    config: Config

    def optimizer(self, groups: list[dict[str, Any]]) -> SGDOptimizer:
        """Return an `SGDOptimizer`, fused where the device has torch's kernel."""
        settings = self.config
        rule = {
            "algorithm": "sgd",
            "momentum": settings.momentum,
            "nesterov": settings.nesterov,
            "classic": settings.decay == "classic",
        }
        return SGDOptimizer({**group, **rule, "fused": fused_supported(group["params"])} for group in groups)
