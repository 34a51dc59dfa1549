"""Memory of a model at work, followed tensor by tensor without allocating any.

The model's own code runs on fake tensors (shapes without contents), so that whatever a component does is counted,
a stranger's too. Layers of a kind behave alike: one of each kind runs and stands for the others, which makes a deep
model as quick to follow as a shallow one.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from gptwright.errors import GptwrightError, Unsupported
from gptwright.model.config import ModelConfig
from gptwright.model.count import Count, Part
from gptwright.model.gpt import GPT

_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Segment:
    """A stretch of the work, and the bytes alive in it."""

    what: str
    """What was done: `forward`, `backward`, `loss` ..."""
    layer: int
    """In which layer, -1 outside of layers."""
    start: int
    """Bytes alive at its beginning."""
    end: int
    """Bytes alive at its end."""
    peak: int
    """The most bytes alive in between."""


class Ledger(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, in segments.

    Where a result would depend on data that fake tensors do not have, two things are taken as given: routing is
    balanced (what `bincount` or an `index_add` of whole numbers counts), and, while ``trusting``, checks are passed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[Segment] = []
        self.live = 0
        self.trusting = False
        """Whether a number that is asked for may be made up: outside of the model's parts nothing hangs on it."""
        self._known: dict[int, Any] = {}
        self._label, self._start, self._peak = ("start", -1), 0, 0

    def begin(self, what: str, layer: int = -1) -> None:
        """End the current segment and begin another."""
        self.segments.append(Segment(*self._label, self._start, self.live, self._peak))
        self._label, self._start, self._peak = (what, layer), self.live, self.live

    def count(self, value: Any) -> None:
        """Count the storages of the tensors in ``value`` until they are freed, each once."""
        for tensor in tree_iter(value):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._enter(storage)

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.live += size
        self._peak = max(self._peak, self.live)
        self._known[key] = weakref.ref(storage, lambda _: self._leave(key, size))

    def _leave(self, key: int, size: int) -> None:
        del self._known[key]
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count what it returns."""
        kwargs = kwargs or {}
        if func is _aten.bincount.default:
            return _balanced(args[0].numel(), kwargs.get("minlength", args[-1]))
        if func is _aten.index_add.default and args[0].ndim == 1 and args[0].dtype == torch.int64:
            return _balanced(args[3].numel(), len(args[0]))
        try:
            result = func(*args, **kwargs)
        except DataDependentOutputException:
            if not self.trusting:
                raise
            return args[0].dtype == torch.bool  # True, or 0 where a number is asked for
        self.count(result)
        return result


def _balanced(total: int, bins: int) -> Tensor:
    """Return counts (bins,) of ``total`` as even as they can be, in a true tensor: they may be asked for."""
    share, more = divmod(total, bins)
    with unset_fake_temporarily():
        return torch.tensor([share + (n < more) for n in range(bins)])


class FakeModel:
    """A GPT of fake tensors on a CPU."""

    def __init__(self, model: GPT, mode: FakeTensorMode) -> None:
        """Turn ``model``, which was built on ``meta``, into fake tensors in place."""
        self.model = model
        _to_fake(model, mode)
        self.stands_for = _representatives(model)
        """For each layer, the one that runs in its place."""
        self.layers = list(model.layers)

    def keep_one_of_a_kind(self) -> None:
        """Let only one layer of each kind run from now on."""
        self.model.layers = nn.ModuleList(layer for _, layer in self.running())

    def running(self) -> Iterator[tuple[int, nn.Module]]:
        """Yield (index, layer) of those that run."""
        return ((index, self.layers[index]) for index in sorted(set(self.stands_for)))

    @property
    def skipped(self) -> list[nn.Parameter]:
        """The parameters of the layers that do not run."""
        running = {index for index, _ in self.running()}
        return [p for index, layer in enumerate(self.layers) if index not in running for p in layer.parameters()]


def _to_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    done: dict[Tensor, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if tensor not in done:
            with unset_fake_temporarily():
                bare = tensor.detach()
            found = FakeTensor(mode, bare, torch.device("cpu"))
            parameter = isinstance(tensor, nn.Parameter)
            done[tensor] = nn.Parameter(found, tensor.requires_grad) if parameter else found
        return done[tensor]

    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            kept.update({name: fake(tensor) for name, tensor in kept.items() if tensor is not None})  # pyright: ignore


def _representatives(model: GPT) -> list[int]:
    """Return for each layer the first one that behaves like it: same parts, same parts frozen, and not at the start."""
    first: dict[Any, int] = {}
    positions: set[str] = set()  # the first layer of each kind of positions keeps what its fellows share
    found, trains = [], any(p.requires_grad for p in model.token_embedding.parameters())
    for index, layer in enumerate(model.layers):
        trained = tuple(p.requires_grad for p in layer.parameters())
        position = repr(model.config.context(index).position)
        key = (repr(model.config.layer(index)), position, position in positions, trained, trains, index == 0)
        positions.add(position)
        found.append(first.setdefault(key, index))
        trains = trains or any(trained)
    return found


def meta_model(config: ModelConfig) -> GPT:
    """Return the model of ``config`` on torch's `meta` device: all shapes, no memory."""
    with torch.device("meta"):
        return GPT(config)


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Compute with shapes alone inside the ``with`` block.

    Raises:
        Unsupported: the code needs to know what stands in a tensor.
    """
    try:
        with torch.random.fork_rng(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    except GptwrightError as error:
        raise Unsupported(f"memory cannot be foreseen: {error}") from error
    except Exception as error:  # whatever a stranger's code does
        sentence = str(error).strip().split("\n")[0] or type(error).__name__
        raise Unsupported(f"memory cannot be foreseen: the model does not run without data ({sentence})") from error


def with_activations(
    found: Count, config: ModelConfig, batch: int, length: int, dtype: torch.dtype = torch.float32
) -> Count:
    """Return ``found``, each part with what the backward pass of ``batch`` rows of ``length`` tokens needs of it kept.

    A tensor that several parts keep counts for the first that does. Weights do not count, nor does the logits'
    chunk, which is gone when the forward pass ends. What is kept between the parts (dropout, scales) has a row of
    its own, `residual`.

    Raises:
        Unsupported: a part needs to know what stands in its tensors.
    """
    kept = activation_bytes(config, batch, length, dtype)
    parts = [
        replace(part, activation_bytes=sum(kept.pop((part.name, i), 0) for i in part.layers)) for part in found.parts
    ]
    if between := sum(kept.values()):
        places = len([layer for _, layer in kept])
        parts.insert(-1, Part("residual", "sums", places, 0, 0, 0, activation_bytes=between))
    return replace(found, parts=parts)


def activation_bytes(
    config: ModelConfig, batch: int, length: int, dtype: torch.dtype = torch.float32
) -> dict[tuple[str, int], int]:
    """Count what the backward pass needs kept, by name of the part and layer, -1 outside of layers.

    See `with_activations`; `norm` are all norms of the layers and the last one.
    """
    model = meta_model(config).to(dtype)
    with fake_tensors() as mode:
        fake = FakeModel(model.train(), mode)
        fake.keep_one_of_a_kind()
        parts = _Parts(fake)
        with Ledger(), torch.autograd.graph.saved_tensors_hooks(parts.keep, lambda kept: kept):
            ids = torch.zeros(batch, length, dtype=torch.long)
            parts.ignore([ids, *model.parameters(), *model.buffers()])
            hidden = model.hidden(ids, model.describe(ids))
            parts.now = ("lm_head", -1)
            model.summed_loss(hidden, ids)
    found = {(name, layer): size for (name, layer), size in parts.bytes.items() if layer < 0}
    for layer, sample in enumerate(fake.stands_for):
        found |= {(name, layer): size for (name, at), size in parts.bytes.items() if at == sample}
    return found


class _Parts:
    """Knows which part is at work, and what each one keeps."""

    def __init__(self, fake: FakeModel) -> None:
        self.bytes: dict[tuple[str, int], int] = {}
        self.now: tuple[str, int] = ("residual", -1)
        self._seen: dict[int, Any] = {}
        for name, module in fake.model.named_children():
            if name not in ("layers", "lm_head", "dropout"):
                self._follow(module, "norm" if name == "final_norm" else name, -1)
        for index, layer in fake.running():
            self._follow(layer, "residual", index)
            for name, module in layer.named_children():
                if name != "dropout":
                    self._follow(module, "norm" if name.endswith("norm") else name, index)

    def _follow(self, module: nn.Module, name: str, layer: int) -> None:
        before: list[tuple[str, int]] = []

        def enter(*_: Any) -> None:
            before.append(self.now)
            self.now = (name, layer)

        def leave(*_: Any) -> None:
            self.now = before.pop()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    def ignore(self, tensors: list[Tensor]) -> None:
        """Count nothing for these."""
        for tensor in tensors:
            self._seen[tensor.untyped_storage()._cdata] = tensor

    def keep(self, tensor: Tensor) -> Tensor:
        """Count the storage of a tensor that is kept for the backward pass, the first time."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = tensor  # kept alive, so that no other storage takes its place
            self.bytes[self.now] = self.bytes.get(self.now, 0) + storage.nbytes()
        return tensor
