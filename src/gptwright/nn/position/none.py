"""No positions at all."""

from typing import Any

from gptwright.nn.base import LayerContext, Position


class NoPosition(Position):
    """Leave order to the causal mask: embeddings, queries and keys stay as they are.

        x_i

    Kazemnejad et al., 2023, https://arxiv.org/abs/2305.19466.
    """

    class Config(Position.Config):
        """No settings."""

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)
