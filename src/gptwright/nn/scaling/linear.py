"""Linear scaling: positions closer together."""

from typing import Any

from torch import Tensor

from gptwright.nn.frequencies import Scaling
from gptwright.ops.rotary import rotary_frequencies, slowed


class Linear(Scaling):
    """Divide every position by the factor (position interpolation; Chen et al., 2023).

    https://arxiv.org/abs/2306.15595
    """

    EXAMPLES = ({"factor": 4.0},)

    class Config(Scaling.Config):
        """Settings of linear scaling."""

        def frequencies(self, width: int, theta: float, device: Any) -> Tensor:
            """Return the frequencies (r/2,), all divided by the factor."""
            return slowed(rotary_frequencies(width, theta, device), self.factor)
