"""Running experts, each on its own slice of the tokens, eagerly and inside one compiled graph.

Shapes: M visits of tokens to experts, sorted by expert; D d_model; E experts.

How many tokens an expert gets is known when the router has run, so a compiled graph cannot hold the slices.
There, all experts together are one operator that the compiler does not look into; the backward operator runs them
again. That is exact for any module, and a token costs what its own experts cost.
"""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gptwright.ops.sequence import Sequence

ROUND = 64
"""Many tokens of an expert are filled up to a multiple: libraries compile and keep a kernel for every new shape."""


class Visits(NamedTuple):
    """Tokens on their way to experts."""

    x: Tensor
    """(M, D): the tokens, those of the first expert first."""
    counts: Tensor
    """(E,) int64: how many there are for each expert."""
    positions: Tensor
    """(M,) int64: where each token stands in its document."""
    segments: Tensor
    """(M,) int64: the document of each token, 0 at padding."""

    def slices(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the tokens (n, D), positions (n,) and segments (n,) for each expert."""
        counts = self.counts.tolist()
        return zip(*(part.split(counts) for part in (self.x, self.positions, self.segments)), strict=True)


class Experts(nn.ModuleList):
    """Modules ``expert(x (1, n, D), seq) -> (1, n, D)``, called together on sorted visits."""

    def __init__(self, experts: Iterable[nn.Module]) -> None:
        super().__init__(experts)
        self._take_key()

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._take_key()  # a copy is not the original

    def _take_key(self) -> None:
        self.key = f"experts {next(_NUMBERS)}"
        _EXPERTS[self.key] = self

    def forward(self, visits: Visits, aux_losses: list[Tensor]) -> Tensor:
        """Return (M, D), what each expert makes of its tokens; one without tokens is not run."""
        outputs = []
        for expert, (x, positions, segments) in zip(self, visits.slices(), strict=True):
            if count := len(x):
                more = -count % ROUND if count > 4 * ROUND else 0  # padding: segment 0
                positions, segments = (F.pad(each, (0, more))[None] for each in (positions, segments))
                seq = Sequence(positions, segments, gapless=False, aux_losses=aux_losses)
                outputs.append(expert(F.pad(x, (0, 0, 0, more))[None], seq)[0, :count])
        return torch.cat(outputs)  # (M, D)


_NUMBERS = itertools.count()
_EXPERTS: WeakValueDictionary[str, Experts] = WeakValueDictionary()
"""The experts that a compiled graph means by a key."""


def run_experts(experts: Experts, x: Tensor, tokens: Tensor, counts: Tensor, seq: Sequence) -> Tensor:
    """Return (M, D), what ``experts`` make of visitors ``x`` (M, D), which are the ``tokens`` (M,) of ``seq``."""
    positions, segments = (each.flatten().index_select(0, tokens) for each in (seq.positions, seq.segments))
    if not torch.compiler.is_compiling():
        return experts(Visits(x, counts, positions, segments), seq.aux_losses)
    out, aux, _ = _forward(x, counts, positions, segments, list(experts.parameters()), experts.key)
    if experts.training:
        seq.aux_losses.append(aux)
    return out


def _call(key: str, params: list[Tensor], buffers: dict[str, Tensor], visits: Visits) -> tuple[Tensor, Tensor]:
    """Run experts with these parameters; return (M, D) and the sum of the losses that they ask to be added."""
    experts, aux_losses = _EXPERTS[key], []
    names = [name for name, _ in experts.named_parameters()]
    named = dict(zip(names, params, strict=True))
    out = functional_call(experts, (named, buffers), (visits, aux_losses))
    return out, sum(aux_losses, torch.zeros((), device=out.device))


@torch.library.custom_op("gptwright::run_experts", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _forward(
    x: Tensor, counts: Tensor, positions: Tensor, segments: Tensor, params: list[Tensor], key: str
) -> tuple[Tensor, Tensor, Tensor]:
    random = _random_state(x.device)
    with torch.no_grad():
        out, aux = _call(key, params, {}, Visits(x, counts, positions, segments))
    return out.contiguous(), aux, random


@_forward.register_fake
def _(
    x: Tensor, counts: Tensor, positions: Tensor, segments: Tensor, params: list[Tensor], key: str
) -> tuple[Tensor, Tensor, Tensor]:
    del counts, positions, segments, params, key
    length = len(_random_state(x.device))
    random = torch.empty(length, dtype=torch.uint8, device="cpu")
    return x.new_empty(x.shape), x.new_empty((), dtype=torch.float32), random


# Defined without an autograd kernel, unlike a `custom_op`: autograd then works as usual inside of it.
torch.library.define(
    "gptwright::run_experts_backward",
    "(Tensor grad, Tensor grad_aux, Tensor x, Tensor counts, Tensor positions, Tensor segments, Tensor[] params, "
    "Tensor random, str key) -> Tensor[]",
)


@torch.library.impl("gptwright::run_experts_backward", "default")
def _backward(
    grad: Tensor,
    grad_aux: Tensor,
    x: Tensor,
    counts: Tensor,
    positions: Tensor,
    segments: Tensor,
    params: list[Tensor],
    random: Tensor,
    key: str,
) -> list[Tensor]:
    buffers = {name: buffer.clone() for name, buffer in _EXPERTS[key].named_buffers()}  # what they count, counts once
    leaves = [leaf.detach().requires_grad_() for leaf in (x, *params)]
    with torch.enable_grad(), _random_again(random, x.device):
        out, aux = _call(key, leaves[1:], buffers, Visits(leaves[0], counts, positions, segments))
    wanted = [(found, upstream) for found, upstream in ((out, grad), (aux, grad_aux)) if found.requires_grad]
    found, upstream = zip(*wanted, strict=True)
    grads = torch.autograd.grad(found, leaves, upstream, allow_unused=True)
    return [
        torch.zeros_like(leaf) if grad is None else grad.contiguous() for leaf, grad in zip(leaves, grads, strict=True)
    ]


@torch.library.register_fake("gptwright::run_experts_backward")
def _(
    grad: Tensor,
    grad_aux: Tensor,
    x: Tensor,
    counts: Tensor,
    positions: Tensor,
    segments: Tensor,
    params: list[Tensor],
    random: Tensor,
    key: str,
) -> list[Tensor]:
    del grad, grad_aux, counts, positions, segments, random, key
    return [leaf.new_empty(leaf.shape) for leaf in (x, *params)]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, params, ctx.key = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2], *params)


def _differentiate(ctx: Any, grad: Tensor, grad_aux: Tensor, _: Any) -> tuple[Any, ...]:
    *tensors, random = ctx.saved_tensors[:5]
    params = list(ctx.saved_tensors[5:])
    backward = torch.ops.gptwright.run_experts_backward
    grad_x, *grad_params = backward(grad, grad_aux, *tensors, params, random, ctx.key)
    return grad_x, None, None, None, grad_params, None


_forward.register_autograd(_differentiate, setup_context=_remember)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _random_again(state: Tensor, device: torch.device) -> Iterator[None]:
    """Draw the random numbers that followed ``state`` once more, and go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield
