"""Computing parts of a layer again in the backward pass instead of keeping them."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "block", "selective"]

_KEPT = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
"""Products with weights: most of the work of a layer, and less than half of what it would keep."""


def run_layer(layer: nn.Module, mode: Recompute | bool, *inputs: Any) -> Tensor:
    """Run ``layer`` on ``inputs``, keeping for the backward pass what ``mode`` says; True means `block`.

    `selective` follows Korthikanti et al. (2022, https://arxiv.org/abs/2205.05198) in spirit: what is dear to
    compute is kept, what is only large (attention weights, activations, norms) is not.
    """
    if mode == "none" or not mode or not torch.is_grad_enabled():
        return layer(*inputs)
    if mode == "selective":
        contexts = partial(create_selective_checkpoint_contexts, _policy)
        return checkpoint(layer, *inputs, use_reentrant=False, context_fn=contexts)  # pyright: ignore[reportReturnType]
    return checkpoint(layer, *inputs, use_reentrant=False)  # pyright: ignore[reportReturnType]


def _policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
