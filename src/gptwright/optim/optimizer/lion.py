"""Lion: the sign of a running mean of the gradient, with half of Adam's state.

Source: Chen et al. (2023), https://arxiv.org/abs/2302.06675. The rule itself is in `gptwright.optim.lion`; here are
its settings.
"""

from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat

from gptwright.optim.base import Betas, OptimizerMaker
from gptwright.optim.lion import LionOptimizer


class Lion(OptimizerMaker):
    """Two groups, as for AdamW: matrices decay, while embeddings, norms and biases do not."""

    class Config(OptimizerMaker.Config):
        lr: PositiveFloat = 2e-4
        """Peak learning rate: how far every number moves in one step. A fifth of AdamW's is a good start."""
        weight_decay: NonNegativeFloat = 0.5
        """Decoupled decay of matrices, per unit of learning rate: with a fifth of AdamW's lr, five times its decay
        shrinks them as much. Embeddings, norms and biases are never decayed."""
        betas: Betas = (0.95, 0.98)
        """Memory of the mean whose sign is taken, and of the mean that is kept; the source's choice for text."""

    EXAMPLES = ({}, {"lr": 1e-3, "weight_decay": 0.0, "betas": [0.9, 0.99]})

    config: Config

    def optimizer(self, groups: list[dict[str, Any]]) -> LionOptimizer:
        """Return a `LionOptimizer`."""
        return LionOptimizer({**group, "algorithm": "lion", "betas": self.config.betas} for group in groups)
