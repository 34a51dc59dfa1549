"""NTK-aware scaling: a larger theta."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from gptwright.nn.frequencies import Scaling
from gptwright.ops.rotary import rotary_frequencies, stretched_theta


class NTK(Scaling):
    """Raise theta until the slowest pair turns as slowly as by linear scaling; the fastest stays as it is.

    Described in Peng et al. (2023, section 3.1, https://arxiv.org/abs/2309.00071). The "dynamic" variant, whose
    theta follows the length read so far, is not offered: keys in a cache have been turned by an earlier theta.
    """

    EXAMPLES = ({"factor": 4.0},)

    class Config(Scaling.Config):
        """Settings of NTK-aware scaling."""

        def frequencies(self, width: int, theta: float, device: Any) -> Tensor:
            """Return the frequencies (r/2,) of the larger theta."""
            return rotary_frequencies(width, stretched_theta(width, theta, self.factor), device)

        def problems_with_width(self, width: int) -> Iterator[str]:
            """Yield why a single pair cannot be scaled: theta has no effect on it."""
            if width < 4:
                yield (
                    f"ntk scaling slows down all pairs but the first, and {width} features are one pair; turn at least "
                    "4 features of each head, or use linear scaling"
                )
