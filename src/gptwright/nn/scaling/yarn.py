"""YaRN: slow pairs slower, fast pairs as they are, scores a little sharper."""

import math
from collections.abc import Iterator
from typing import Any

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from gptwright.nn.frequencies import Scaling
from gptwright.ops.rotary import kept_by_pair, rotary_frequencies, slowed


class YaRN(Scaling):
    """Divide the frequencies of pairs that turn seldom in training, keep those that turn often (Peng et al., 2023).

    https://arxiv.org/abs/2309.00071
    """

    EXAMPLES = ({"factor": 4.0, "original_max_seq_len": 64},)

    class Config(Scaling.Config):
        """Settings of YaRN."""

        original_max_seq_len: PositiveInt
        """Tokens of context that the model was trained on before."""
        beta_fast: PositiveFloat = 32.0
        """Turns within the original context from which on a pair is kept as it is."""
        beta_slow: PositiveFloat = 1.0
        """Turns within the original context up to which a pair is slowed by the whole factor."""
        truncate: bool = True
        """Whether the ramp between the two begins and ends at whole pairs, as in the authors' code."""
        attention_factor: PositiveFloat | None = None
        """Factor on turned queries and keys, whose square multiplies scores. Default 0.1 ln(factor) + 1."""

        def frequencies(self, width: int, theta: float, device: Any) -> Tensor:
            """Return the frequencies (r/2,), slowed where they are low."""
            turns, whole = (self.beta_fast, self.beta_slow), self.truncate
            kept = kept_by_pair(width, theta, self.original_max_seq_len, *turns, whole=whole, device=device)
            return slowed(rotary_frequencies(width, theta, device), self.factor, kept)

        def magnitude(self) -> float:
            """Return the factor on turned queries and keys."""
            return self.attention_factor or 0.1 * math.log(self.factor) + 1

        def problems(self, theta: float) -> Iterator[tuple[str, str]]:
            """Yield bounds in the wrong order, and a theta that gives all pairs one speed."""
            if self.beta_slow >= self.beta_fast:
                yield (
                    "beta_slow",
                    f"beta_slow {self.beta_slow:g} must be less than beta_fast {self.beta_fast:g}, as pairs that turn "
                    "seldom are slowed and those that turn often are kept; exchange them, or use the defaults",
                )
            if theta <= 1:
                yield (
                    "type",
                    f"yarn scaling needs pairs from fast to slow, and theta {theta:g} is not above 1; raise theta, or "
                    "use linear scaling",
                )
