"""Linear biases."""

from typing import Any

from gptwright.nn.base import LayerContext, Position


class Alibi(Position):
    """Subtract from each score the distance times the slope of its head; steep heads look near, flat ones far.

        score(i, j) = q_i . k_j / sqrt(d) - slope_h * (i - j),   slope_h = 2^(-8 h / n_heads)

    Press et al., 2022, https://arxiv.org/abs/2108.12409.
    """

    class Config(Position.Config):
        """No settings: the slopes follow from the number of heads."""

        def slopes(self, n_heads: int) -> list[float] | None:
            """Return the slope of each head: 2^(-8/n), 2^(-16/n), ... for n heads, n a power of two.

            For other numbers, those of the next lower power of two and then every other one of the next higher, as
            the authors' code does.
            """
            lower = 1 << (n_heads.bit_length() - 1)
            return [*_geometric(lower), *_geometric(2 * lower)[::2]][:n_heads]

    def __init__(self, config: Any, ctx: LayerContext) -> None:
        super().__init__(config, ctx)


def _geometric(n: int) -> list[float]:
    return [2 ** (-8 * (i + 1) / n) for i in range(n)]
