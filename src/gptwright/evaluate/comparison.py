"""What a comparison of two models came to, in figures and in a sentence that can be read only one way."""

import math
from dataclasses import dataclass, field
from typing import Any

from gptwright.evaluate.interval import FEWEST, Difference


@dataclass(frozen=True)
class Comparison:
    """Two models on the same documents, by one figure."""

    names: tuple[str, str]
    """What the models are called."""
    figure: str
    """What is compared: ``bits_per_byte``, or a metric of a task."""
    values: tuple[float, float]
    """The figure of each model on all documents."""
    difference: Difference
    """First minus second, with its 95 % interval."""
    higher_is_better: bool = False
    """Whether a higher figure is better."""
    documents: str = "documents"
    """What is counted: documents, blocks of a single text, or questions."""
    notes: tuple[str, ...] = field(default=())
    """What whoever reads the figure should know."""

    @property
    def better(self) -> str | None:
        """The name of the better model; None while it is undecided."""
        if not self.difference.sure:
            return None
        return self.names[0] if (self.difference.value > 0) == self.higher_is_better else self.names[1]

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        return f"{self._how_much()} {self._how_sure()}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "figure": self.figure,
            "models": list(self.names),
            "values": list(self.values),
            "difference": self.difference.value,
            "interval": None if self.difference.low is None else [self.difference.low, self.difference.high],
            "documents": self.difference.documents,
            "of": self.documents,
            "higher_is_better": self.higher_is_better,
            "better": self.better,
            "sentence": self.sentence,
            "notes": list(self.notes),
        }

    @property
    def _words(self) -> tuple[str, str]:
        """What a difference below 0 and one above it are called."""
        return ("fewer", "more") if self.figure == "bits_per_byte" else ("lower", "higher")

    def _how_much(self) -> str:
        (first, second), value = self.names, self.difference.value
        if self.figure == "bits_per_byte":
            if not value:
                return f"{first} and {second} need the same bits a byte"
            return f"{first} needs {self._amount(value)} bits a byte than {second}"
        if not value:
            return f"{self.figure} is the same for {first} and {second}"
        return f"{self.figure} of {first} is {self._amount(value)} than that of {second}"

    def _how_sure(self) -> str:
        low, high, count = self.difference.low, self.difference.high, self.difference.documents
        if low is None or high is None:
            what = self.documents if count != 1 else self.documents.removesuffix("s")
            few = f"{count} {what}, too few for an interval, which needs {FEWEST}"
            return f"({few}): undecided"
        ends = sorted((low, high), key=abs) if low * high >= 0 else [low, high]
        same = low * high >= 0
        span = " to ".join(f"{abs(end):.{self._digits}f}" if same else self._amount(end) for end in ends)
        verdict = "undecided" if self.better is None else f"{self.better} is better"
        return f"(95 % interval {span}, {count:,} {self.documents}): {verdict}"

    def _amount(self, value: float) -> str:
        return f"{abs(value):.{self._digits}f} {self._words[value > 0]}"

    @property
    def _digits(self) -> int:
        """Decimals that show two digits of what is uncertain, or of the difference."""
        low, high = self.difference.low, self.difference.high
        scale = abs(self.difference.value) if low is None or high is None else max(high - low, 0.0)
        scale = scale or abs(self.difference.value)
        return 3 if not scale else min(9, max(2, 1 - math.floor(math.log10(scale))))
