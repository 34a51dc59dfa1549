"""The law of slices: weights cut by `tp_plan` and run apart sum to the whole.

Shapes: B batch, T tokens, D d_model.
"""

import copy
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gptwright.check.measure import GRADIENT_TOLERANCE, demand, same
from gptwright.check.models import components
from gptwright.model.gpt import GPT
from gptwright.nn.base import Attention, FeedForward, LayerContext, Module
from gptwright.nn.state.replay import Replay
from gptwright.ops.sequence import Sequence

DEVICES = 2
T = 70
DIMENSION = {"colwise": 0, "rowwise": 1}
"""Which dimension of a weight each cut divides."""


def slices_sum_to_the_whole(model: GPT) -> str | None:
    """Weights cut by `tp_plan` for two devices, and run apart, sum to the whole: outputs, input gradient, decoding."""
    notes, seqs = [], [Sequence.plain(2, T) for _ in range(DEVICES + 1)]  # a device knows its own values only
    for name, part, ctx in components(model):
        if not isinstance(part, Attention | FeedForward):
            continue
        plan = part.config.tp_plan(ctx)
        reason = _whole(part, plan) if plan else f"{part.config.type} has no tp_plan"
        if not reason:
            _sums(part, plan, ctx, seqs, f"{part.config.type} ({name})")
            continue
        notes.append(f"not cut: {reason}")
        if isinstance(part, Attention) and ctx.value_residual:
            break  # later layers ask for this one's values
    return "; ".join(dict.fromkeys(notes)) or None


def _whole(part: Module, plan: dict[str, str]) -> str | None:
    """Return why a part cannot be cut: heads or widths that do not divide."""
    heads = {key: value for key, value in part.config if "heads" in key and isinstance(value, int)}
    widths = {
        where: tensor.shape[_dimension(tensor, cut)]
        for key, cut in plan.items()
        for where, tensor in _named(part, key, cut)
        if not _is_added_once(tensor, cut)
    }
    odd = {name: count for name, count in (heads | widths).items() if count % DEVICES}
    return next((f"{name} {count} does not divide by {DEVICES}" for name, count in odd.items()), None)


def _sums(part: Module, plan: dict[str, str], ctx: LayerContext, seqs: list[Sequence], who: str) -> None:
    x, upstream = torch.randn(2, 2, T, ctx.d_model, generator=torch.Generator().manual_seed(2))
    whole, grad = _run(part, x, seqs[-1], upstream)
    pieces = [sliced(part, plan, device) for device in range(DEVICES)]
    found = [_run(piece, x, seq, upstream) for piece, seq in zip(pieces, seqs[:-1], strict=True)]
    same(torch.stack([out for out, _ in found]).sum(0), whole, f"the sum of {DEVICES} slices of {who}")
    what = f"the input gradient of {DEVICES} slices of {who}"
    same(torch.stack([each for _, each in found]).sum(0), grad, what, GRADIENT_TOLERANCE)
    if isinstance(part, Attention) and ctx.layer_index == 0 and not isinstance(part.init_state(1, 1), Replay):
        decoded = torch.stack([_decoded(piece, x) for piece in pieces]).sum(0)
        same(decoded, whole, f"the sum of {DEVICES} slices of {who}, decoding with states of their own")


def _run(part: Module, x: Tensor, seq: Sequence, upstream: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = part(x, seq)
    (grad,) = torch.autograd.grad(out, x, upstream, retain_graph=True)
    return out, grad


@torch.no_grad()
def _decoded(piece: Any, x: Tensor) -> Tensor:
    """Return the outputs of an attention fed in pieces to a state of its own."""
    state = piece.init_state(len(x), T)
    parts = pairwise((0, T // 2, T // 2 + 1, T))
    return torch.cat([piece(x[:, a:b], Sequence.plain(len(x), b - a, start=a), state) for a, b in parts], 1)


def sliced(part: Module, plan: dict[str, str], device: int, devices: int = DEVICES) -> Module:
    """Return a copy of ``part`` with what ``device`` of ``devices`` holds of its weights."""
    piece = copy.deepcopy(part)
    for key, cut in plan.items():
        for where, tensor in _named(piece, key, cut):
            if _is_added_once(tensor, cut):
                mine = tensor.detach() * (device == 0)
            else:
                mine = tensor.detach().chunk(devices, _dimension(tensor, cut))[device].clone()
            _put(piece, where, mine)
    return piece


def _named(part: Module, key: str, cut: str) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers that an entry of a plan means."""
    demand(cut in DIMENSION, f"tp_plan says '{cut}' for '{key}', and must say colwise or rowwise")
    tensors = [*part.named_parameters(), *part.named_buffers()]
    found = [
        (where, tensor)
        for where, tensor in tensors
        if fnmatchcase(where, key) or fnmatchcase(where.rpartition(".")[0], key)
    ]
    known = ", ".join(where for where, _ in tensors)
    demand(
        bool(found), f"tp_plan names '{key}', which no weight of {type(part).__name__} is called (they are: {known})"
    )
    return found


def _dimension(tensor: Tensor, cut: str) -> int:
    return min(DIMENSION[cut], tensor.ndim - 1)


def _is_added_once(tensor: Tensor, cut: str) -> bool:
    """Whether this is the bias of a sum over devices: one of them keeps it."""
    return cut == "rowwise" and tensor.ndim == 1


def _put(part: Module, where: str, value: Tensor) -> None:
    folder, _, name = where.rpartition(".")
    owner = part.get_submodule(folder)
    if name in owner._parameters:
        owner._parameters[name] = nn.Parameter(value)
    else:
        owner._buffers[name] = value
