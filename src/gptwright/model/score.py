"""How well a model predicts: summed cross-entropy over batches of token ids."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gptwright.model.batch import Batch
from gptwright.model.evaluating import evaluating

if TYPE_CHECKING:
    from gptwright.model.gpt import GPT


@dataclass(frozen=True)
class Score:
    """Quality on a text."""

    loss: float
    """Cross-entropy in nats a token."""
    bits_per_byte: float
    """Cross-entropy in bits a byte of UTF-8 text: comparable between tokenizers."""
    perplexity: float
    """exp(loss)."""
    tokens: int
    """Tokens predicted."""
    parts: Mapping[str, "Score"] = field(default_factory=dict)
    """Of a mixture: the score of each part, by its name."""

    @classmethod
    def of(cls, nats: float, tokens: int, text_bytes: int, parts: Mapping[str, "Score"] | None = None) -> "Score":
        """Make a score of summed ``nats`` over ``tokens`` predictions that stand for ``text_bytes`` bytes."""
        loss = nats / tokens
        perplexity = math.exp(loss) if loss < 700 else math.inf
        return cls(loss, nats / math.log(2) / max(1, text_bytes), perplexity, tokens, parts or {})

    def to_dict(self) -> dict[str, Any]:
        """Return the four figures by name, and of a mixture the same of each part under ``parts``."""
        found = {name: getattr(self, name) for name in ("loss", "bits_per_byte", "perplexity", "tokens")}
        return found | ({"parts": {name: part.to_dict() for name, part in self.parts.items()}} if self.parts else {})


class Sums(NamedTuple):
    """What scores are made of."""

    nats: float = 0.0
    tokens: int = 0
    text_bytes: int = 0

    def __add__(self, other: Any) -> "Sums":
        """Return the sums of both texts."""
        return Sums(*(mine + its for mine, its in zip(self, other, strict=True)))


@torch.no_grad()
def summed_loss(model: "GPT", batches: Iterable[Batch]) -> tuple[float, int]:
    """Return the cross-entropy in nats summed over all targets that count, and their number.

    ``batches`` lie on the model's device. The model is put into eval mode for the time being.
    """
    nats, count = 0.0, 0
    with evaluating(model):
        for batch in batches:
            hidden = model.hidden(batch.inputs, model.describe(batch.inputs, segments=batch.segments))
            nats += float(model.summed_loss(hidden, batch.targets))
            count += int(batch.wanted())
    return nats, count
