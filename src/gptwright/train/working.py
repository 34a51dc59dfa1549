"""The copy of the weights that computes: low precision, made anew from fp32 masters once a step.

The optimizer moves fp32 masters; forward and backward run on a twin whose matrices are bf16 or fp16.
Casting once a step costs one pass over the weights; autocast would cast them for every micro-batch
(Micikevicius et al., 2018, https://arxiv.org/abs/1710.03740).
"""

import torch
from torch import Tensor

from gptwright.model.gpt import GPT
from gptwright.nn.base import Module


class WorkingCopy:
    """A twin of ``master`` in ``dtype``; the master itself when that is fp32.

    Buffers that components keep in fp32 (`Module.KEPT_FP32`) are one and the same in both.
    """

    def __init__(self, master: GPT, dtype: torch.dtype) -> None:
        self.master = master
        self.model = master if dtype == torch.float32 else master.twin(dtype)
        _share_kept(master, self.model)
        self._masters = [p for p in master.parameters() if p.requires_grad]
        self._twins = [p for p in self.model.parameters() if p.requires_grad]

    @torch.no_grad()
    def refresh(self, *, everything: bool = False) -> None:
        """Bring the twin up to the masters' values; ``everything``: also what is frozen, as after loading."""
        if self.model is self.master:
            return
        if everything:
            self.model.load_state_dict(self.master.state_dict())
        else:
            torch._foreach_copy_(self._twins, self._masters)  # pyright: ignore

    @torch.no_grad()
    def collect(self) -> None:
        """Add the twin's gradients to the masters', in fp32, and clear them."""
        if self.model is self.master:
            return
        for master, twin in zip(self._masters, self._twins, strict=True):
            if twin.grad is not None:
                master.grad = _added(master.grad, twin.grad)
                twin.grad = None


def _share_kept(master: GPT, twin: GPT) -> None:
    """Let ``twin`` hold the master's own fp32 buffers: what it counts and moves is in checkpoints at once."""
    for original, copied in zip(master.modules(), twin.modules(), strict=True):
        if isinstance(original, Module):
            kept = {name: x for name, x in original.named_buffers(recurse=False) if name in original.KEPT_FP32}
            for name, buffer in kept.items():
                setattr(copied, name, buffer)


def _added(total: Tensor | None, grad: Tensor) -> Tensor:
    return grad.float() if total is None else total.add_(grad)
