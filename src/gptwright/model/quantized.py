"""A GPT whose matrices have few bits: smaller and faster to generate with, and not to be trained."""

from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from gptwright.errors import GptwrightError
from gptwright.model.gpt import GPT
from gptwright.model.states import ModelStates
from gptwright.nn.quantized import PackedWeight, QuantizedEmbedding, QuantizedLinear
from gptwright.ops.packed import Packed, check_bits, pack, packable

MIN_OUTPUTS = 16
"""Matrices of fewer outputs stay as they are: gates of heads and the like, which are small and delicate."""
PROBE = 4
"""Tokens on which it is seen which layers are called."""


class QuantizedGPT(GPT):
    """A GPT whose matrices have ``bits`` bits, as `quantize` returns it."""

    bits: int
    """Bits of the matrices: 8 or 4."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.buffers()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights compute in."""
        return cast("QuantizedEmbedding", self.token_embedding).packed.dtype

    def num_params(self, *, non_embedding: bool = False) -> int:
        """Count parameters, packed ones among them and shared ones once; see `GPT.num_params`."""
        packed = sum(module.numel for module in self.modules() if isinstance(module, PackedWeight))
        return packed + super().num_params(non_embedding=non_embedding)

    def init_states(
        self, batch: int, length: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ModelStates:
        """Return fresh decode states; see `GPT.init_states`."""
        return super().init_states(batch, length, device=device or self.device, dtype=dtype)

    def train(self, mode: bool = True) -> "QuantizedGPT":
        """Refuse to be trained; ``train(False)`` is `eval`.

        Raises:
            GptwrightError: ``mode`` is True.
        """
        if mode:
            raise GptwrightError(
                f"this model has weights of {self.bits} bits, whose steps are too large for training to take; train "
                "the model that it was made from, and quantize that again"
            )
        return super().train(False)

    def _embed(self, ids: Tensor) -> Tensor:
        try:
            return self.token_embedding(ids)
        except IndexError:
            return super()._embed(ids)  # which says it in a sentence


def quantize(model: GPT, bits: int) -> QuantizedGPT:
    """Return a copy of ``model`` with matrices of ``bits`` (8 or 4) bits, in eval mode; ``model`` stays as it is.

    Every linear layer that is called is packed, whosever component it stands in, and the token embedding. Layers of
    which only the matrix is used (a router, an absorbed projection), matrices of fewer than 16 outputs and all other
    parameters stay as they are. At 4 bits, the embedding, the head, and matrices whose inputs are no multiple of 32
    have 8.

    Raises:
        GptwrightError: another number of bits, a model of few bits already, or a weight that is not finite.
    """
    check_bits(bits)
    if isinstance(model, QuantizedGPT):
        raise GptwrightError(f"this model has weights of {model.bits} bits already; quantize the one it was made from")
    twin = model.twin(_dtype(model)).eval()
    called = _called(twin)
    packed: dict[int, PackedWeight] = {}  # by the identity of the matrix: tied layers hold one and the same
    for name, module in list(twin.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Embedding) or name in called:
            layer = cast("nn.Linear | nn.Embedding", module)
            _replace(twin, name, _packed(name, layer.weight, _bits_of(twin, layer, bits), packed), layer)
    return _become(twin, bits)


def shell(model: GPT, weights: dict[str, Tensor], bits: int) -> QuantizedGPT:
    """Turn ``model`` into one that the packed ``weights``, by name, fit into; its own values are lost."""
    packed: dict[int, PackedWeight] = {}  # by the identity of the matrix that it stands for
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        if f"{name}.packed.q" in weights and isinstance(module, nn.Linear | nn.Embedding):
            found = (weights.get(f"{name}.packed.{part}") for part in ("q", "scale", "offset"))
            fresh = cast("Iterable[Tensor]", [None if x is None else torch.empty_like(x) for x in found])
            packed[id(module.weight)] = PackedWeight(Packed(*fresh), module.weight.dtype)
    for name, module in modules.items():  # also those that share a matrix, which has been saved under one name
        if isinstance(module, nn.Linear | nn.Embedding) and id(module.weight) in packed:
            _replace(model, name, packed[id(module.weight)], module)
    return _become(model, bits)


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and of the buffers that are saved, shared ones once."""
    return sum({t.data_ptr(): t.nbytes for t in model.state_dict().values()}.values())


def _become(model: GPT, bits: int) -> QuantizedGPT:
    model.__class__ = QuantizedGPT
    found = cast("QuantizedGPT", model)
    found.bits = bits
    return found.requires_grad_(False).eval()


def _dtype(model: GPT) -> torch.dtype:
    return model.token_embedding.weight.dtype


def _packed(name: str, weight: Tensor, bits: int, known: dict[int, PackedWeight]) -> PackedWeight:
    if id(weight) not in known:
        try:
            known[id(weight)] = PackedWeight(pack(weight, bits), weight.dtype)
        except GptwrightError as error:
            raise GptwrightError(f"{name} cannot be quantized: {error}") from None
    return known[id(weight)]


def _bits_of(model: GPT, module: nn.Linear | nn.Embedding, bits: int) -> int:
    """Return the bits of a layer: the embedding and the head decide about each token directly, and have 8."""
    if isinstance(module, nn.Embedding) or module is model.lm_head:
        return 8
    return bits if packable(module.weight.shape[1], bits) else 8


def _replace(model: nn.Module, name: str, packed: PackedWeight, module: nn.Linear | nn.Embedding) -> None:
    embedding = isinstance(module, nn.Embedding)
    new = QuantizedEmbedding(packed) if embedding else QuantizedLinear(packed, module.bias)
    model.set_submodule(name, new.eval())


@torch.no_grad()
def _called(model: GPT) -> set[str]:
    """Return the names of the linear layers that are called, in a forward with decode states and in one without.

    Experts take turns, and so do other layers that stand in lists: one that is called speaks for all of its list.
    """
    linear = {name: module for name, module in model.named_modules(remove_duplicate=False) if type(module) is nn.Linear}
    ways: list[set[str]] = []
    length = min(PROBE, model.config.max_seq_len)
    ids = torch.zeros(1, length, dtype=torch.int64, device=model.device)
    for states in (None, model.init_states(1, length)):
        seen: set[str] = set()
        hooks = [
            module.register_forward_pre_hook(partial(_note, seen, _place(name))) for name, module in linear.items()
        ]
        try:
            model(ids, states=states)
        finally:
            for hook in hooks:
                hook.remove()
        ways.append(seen)
    both = ways[0] & ways[1]
    return {name for name, module in linear.items() if _place(name) in both and module.out_features >= MIN_OUTPUTS}


def _note(seen: set[str], place: str, *_: object) -> None:
    seen.add(place)


def _place(name: str) -> str:
    """Return a name without the numbers inside a layer: all experts have one place."""
    head, inside = name.split(".")[:2], name.split(".")[2:]
    return ".".join([*head, *("*" if part.isdigit() else part for part in inside)])
