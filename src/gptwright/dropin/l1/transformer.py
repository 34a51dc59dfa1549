"""The model of L1.

Shapes: B batch, T tokens, V vocabulary.
"""

from typing import Any

from torch import Tensor

from gptwright.dropin.face import Face
from gptwright.dropin.l1.config import L1Config
from gptwright.ops.loss import IGNORE, loss


class L1Model(Face):
    """The model; ``config`` is an `L1Config`, or a dictionary or namespace with its keys.

    `gradient_checkpointing`, an attribute, may be switched at any time.
    """

    def __init__(self, config: Any) -> None:
        words = L1Config.read(config)
        super().__init__(words.model())
        self.words = words
        self.gradient_checkpointing = words.gradient_checkpointing

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of ``targets`` (B, T), smoothed as the settings say, padding left out."""
        pad = self.words.pad_token_id
        wanted = targets if pad is None else targets.masked_fill(targets == pad, IGNORE)
        return loss(logits, wanted, label_smoothing=self.words.label_smoothing)
