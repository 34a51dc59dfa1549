"""What the faces of whole models share: a loss beside the logits, and prompts of any length.

Shapes: B batch, T tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from gptwright.model.gpt import GPT
from gptwright.ops.loss import IGNORE, loss


class Face(GPT):
    """A `gptwright.GPT` that can be called as published designs are."""

    def forward(self, input_ids: Tensor, targets: Tensor | None = None, **described: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the logits (B, T, V) for ``input_ids`` (B, T); with ``targets``, the logits and the loss.

        Args:
            input_ids: token ids.
            targets: (B, T) the token after each of ``input_ids``; -100 does not count, nor what stands at padding.
            described: ``padding_mask``, ``segments`` and ``states``, as `gptwright.GPT` takes them.
        """
        seq = self.describe(input_ids, **described)
        logits = self.logits(self.hidden(input_ids, seq, described.get("states")))  # (B, T, V)
        if targets is None:
            return logits
        wanted = targets.masked_fill(~seq.real, IGNORE)
        return logits, sum(seq.aux_losses, self.loss(logits, wanted))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of ``targets`` (B, T) under ``logits`` (B, T, V)."""
        return loss(logits, targets)

    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int = 50,
        temperature: float = 1.0,
        top_k: int | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Return ``input_ids`` (B, T) and the new tokens; of a prompt longer than the context, its end is read.

        ``sampling`` is what `gptwright.model.decode.generate_ids` takes: ``top_p``, ``do_sample``, ``seed``...
        """
        start = max(0, input_ids.shape[1] - self.config.max_seq_len)
        if sampling.get("padding_mask") is not None:
            sampling["padding_mask"] = sampling["padding_mask"][:, start:]
        sampling |= {"temperature": temperature, "top_k": top_k}
        found = super().generate(input_ids[:, start:], max_new_tokens, **sampling)
        return torch.cat((input_ids[:, :start], found), 1)
