"""How well a model predicts: summed cross-entropy over batches of token ids."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from gptwright.model.batch import Batch

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

    @classmethod
    def of(cls, nats: float, tokens: int, text_bytes: int) -> "Score":
        """Make a score of summed ``nats`` over ``tokens`` predictions that stand for ``text_bytes`` bytes."""
        loss = nats / tokens
        perplexity = math.exp(loss) if loss < 700 else math.inf
        return cls(loss, nats / math.log(2) / max(1, text_bytes), perplexity, tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return the four figures by name."""
        return asdict(self)


@torch.no_grad()
def summed_loss(model: "GPT", batches: Iterable[Batch]) -> tuple[float, int]:
    """Return the cross-entropy in nats summed over all targets that count, and their number.

    ``batches`` lie on the model's device. The model is put into eval mode for the time being.
    """
    was_training = model.training
    model.eval()
    nats, count = 0.0, 0
    try:
        for batch in batches:
            hidden = model.hidden(batch.inputs, model.describe(batch.inputs, segments=batch.segments))
            nats += float(model.summed_loss(hidden, batch.targets))
            count += int(batch.wanted())
    finally:
        model.train(was_training)
    return nats, count
