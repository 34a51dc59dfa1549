"""Llama 3.1's scaling by bands of frequency."""

from collections.abc import Iterator
from typing import Any

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from gptwright.nn.frequencies import Scaling
from gptwright.ops.rotary import kept_by_turns, rotary_frequencies, slowed


class Llama3(Scaling):
    """Keep high frequencies, divide low ones by the factor, blend those between (Llama 3.1, 2024).

    https://arxiv.org/abs/2407.21783
    """

    EXAMPLES = ({"factor": 8.0, "original_max_seq_len": 64},)

    class Config(Scaling.Config):
        """Settings of Llama 3.1's scaling."""

        original_max_seq_len: PositiveInt
        """Tokens of context that the model was trained on before."""
        low_freq_factor: PositiveFloat = 1.0
        """Turns within the original context up to which a frequency is divided by the whole factor."""
        high_freq_factor: PositiveFloat = 4.0
        """Turns within the original context from which on a frequency is kept."""

        def frequencies(self, width: int, theta: float, device: Any) -> Tensor:
            """Return the frequencies (r/2,), slowed where they are low."""
            found = rotary_frequencies(width, theta, device)
            turns = (self.high_freq_factor, self.low_freq_factor)
            return slowed(found, self.factor, kept_by_turns(found, self.original_max_seq_len, *turns))

        def problems(self, theta: float) -> Iterator[tuple[str, str]]:
            """Yield bands in the wrong order."""
            del theta
            low, high = self.low_freq_factor, self.high_freq_factor
            if low >= high:
                yield (
                    "low_freq_factor",
                    f"low_freq_factor {low:g} must be less than high_freq_factor {high:g}, as low frequencies are "
                    "divided and high ones kept; exchange them, or use the defaults",
                )
