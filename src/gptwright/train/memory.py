"""Memory of training, foreseen: a real training step on fake tensors, its peak found and taken apart.

The steps run by `Stepper` itself, with its optimizer and working copy, on tensors that have shapes and no contents
(`gptwright.model.memory`). One layer of each kind runs; what the others would add is laid in between. The figures are
bytes of tensors: what kernels use for themselves is not seen, nor what an allocator keeps in holes that nothing fits
(`benchmarks/memory.py` measures both).
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from gptwright.model.freeze import choose_trained
from gptwright.model.memory import FakeModel, Ledger, Segment, fake_tensors, meta_model
from gptwright.ops.precision import DTYPES, Name, Precision
from gptwright.train.config import RunConfig
from gptwright.train.step import Stepper, micro_batch_rows


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training needs on its device."""

    precision: Name
    optimizer: str
    micro_batch: int
    """Rows worked on at once."""
    context: int
    """Tokens a row."""
    weights: int
    """Parameters and buffers, in fp32."""
    working_copy: int
    """The copy of the weights that computes, in a lower precision; 0 in fp32."""
    gradients: int
    """Gradients of all trained parameters, in fp32."""
    optimizer_state: int
    """What the optimizer keeps between steps."""
    activations: int
    """What the forward pass of a micro-batch leaves for the backward pass."""
    loss: int
    """What computing the loss adds on top: the chunk of logits and the head's gradient."""
    peak: int
    """The most that is alive at once."""
    peak_at: str
    """When that is: `loss`, `backward of layer 11`, `optimizer step` ..."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def training_memory(
    config: RunConfig,
    *,
    precision: Name = "fp32",
    micro_batch: int | None = None,
    context: int | None = None,
) -> TrainingMemory:
    """Foresee the memory of training ``config``, without allocating it.

    Args:
        config: the run; `model.vocab_size` must be set.
        precision: of the matrix products; `auto` is not known here.
        micro_batch: rows worked on at once. Default: those of the settings.
        context: tokens a row. Default `model.max_seq_len`.

    Raises:
        Unsupported: a part of the model does not run without data.
    """
    context = context or config.model.max_seq_len
    rows = micro_batch or micro_batch_rows(config.train, context)
    total = max(rows, config.train.tokens_per_step // context)
    master = meta_model(config.model)
    choose_trained(master, config.train.freeze, config.train.unfreeze)
    config.optimizer_maker.freeze(master)
    dtype = DTYPES[precision]
    twin = None if dtype == torch.float32 else master.twin(dtype)
    with fake_tensors() as mode:
        whole = FakeModel(master, mode)
        watch = _Watch(config, whole, whole if twin is None else FakeModel(twin, mode), precision)
        watch.run(rows, min(2, -(-total // rows)), context)
        return watch.result(rows, context)


class _Watch:
    """A training step of a fake model, and what it came to."""

    def __init__(self, config: RunConfig, master: FakeModel, working: FakeModel, precision: Name) -> None:
        self.config, self.master, self.working = config, master.model, working
        self.precision: Name = precision
        self.weights = [*self.master.parameters(), *self.master.buffers()]
        self.copies = [*working.model.parameters(), *working.model.buffers()]
        self.ledger = Ledger()

    def run(self, rows: int, micro_batches: int, context: int) -> None:
        """Take a step of up to two micro-batches (later ones are like the second), with the optimizer's state there."""
        how = Precision(self.precision, DTYPES[self.precision], "highest", "")
        train = self.config.train.model_copy(update={"compile": False, "micro_batch": rows})
        self.master.twin = lambda dtype: self.working.model  # pyright: ignore[reportAttributeAccessIssue] - one is there
        with self.ledger:
            self.ledger.count([*self.weights, *self.copies])
            self.optimizer = self.config.build_optimizer(self.master, how)
            stepper = Stepper(self.master, self.optimizer, self.config.build_schedule(), train, how)
            self._make_state()
            self.working.keep_one_of_a_kind()
            self._follow_layers()
            self._follow_step(stepper)
            ids = torch.zeros(rows * micro_batches, context, dtype=torch.long)
            stepper.step(0, ids, ids)
            self.ledger.begin("end")

    def _make_state(self) -> None:
        """Step once on gradients that are simply there, so that the optimizer keeps what it will keep."""
        for parameter in self.master.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _follow_step(self, stepper: Stepper) -> None:
        """Mark where a micro-batch begins, where its loss does, and where gradients are collected."""
        ledger, model, hidden, collect = (
            self.ledger,
            self.working.model,
            self.working.model.hidden,
            stepper.working.collect,
        )

        def marked_hidden(*args: Any) -> Tensor:
            ledger.begin("embedding")
            ledger.trusting = False
            found = hidden(*args)
            ledger.trusting = True
            ledger.begin("loss")
            return found

        def marked_collect() -> None:
            ledger.begin(_FILL)
            for parameter in self.working.skipped:
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
            ledger.begin("collecting gradients")
            collect()
            ledger.begin("optimizer step")

        ledger.trusting = True
        model.hidden = marked_hidden  # pyright: ignore[reportAttributeAccessIssue]
        stepper.working.collect = marked_collect

    def _follow_layers(self) -> None:
        """Mark where layers begin to work, forward and backward."""
        running = list(self.working.running())
        for index, layer in running:
            layer.register_forward_pre_hook(_marking_input(self.ledger, index, first=index == running[0][0]))
            layer.register_forward_hook(_marking_output(self.ledger, index, last=index == running[-1][0]))

    def result(self, rows: int, context: int) -> TrainingMemory:
        """Return what the steps needed."""
        segments = list(_every_layer(self.ledger.segments, self.working.stands_for))
        first = {segment.what: segment for segment in reversed(segments)}
        highest = max(segments, key=lambda segment: segment.peak)
        weights = _bytes(self.weights)
        state = (tensor for values in self.optimizer.state.values() for tensor in values.values())
        return TrainingMemory(
            precision=self.precision,
            optimizer=self.config.optim.type,
            micro_batch=rows,
            context=context,
            weights=weights,
            working_copy=_bytes([*self.weights, *self.copies]) - weights,
            gradients=_bytes(weight for weight in self.weights if weight.requires_grad),
            optimizer_state=_bytes(tensor for tensor in state if isinstance(tensor, Tensor)),
            activations=first["loss"].start - first["embedding"].start,
            loss=first["loss"].peak - first["loss"].start,
            peak=highest.peak,
            peak_at=f"{highest.what} of layer {highest.layer}" if highest.layer >= 0 else highest.what,
        )


_FILL = "gradients of layers that did not run"


def _marking_input(ledger: Ledger, index: int, *, first: bool) -> Any:
    def hook(layer: nn.Module, args: Any) -> None:
        if _in_backward():  # computed again, where activations were not kept
            return
        ledger.begin("forward", index)
        if first and args[0].requires_grad:
            args[0].register_hook(lambda grad: ledger.begin("backward of the embedding"))

    return hook


def _marking_output(ledger: Ledger, index: int, *, last: bool) -> Any:
    def hook(layer: nn.Module, args: Any, out: Tensor) -> None:
        if _in_backward():
            return
        if out.requires_grad:
            out.register_hook(lambda grad: ledger.begin("backward", index))
        if last:
            ledger.begin("last norm")

    return hook


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _every_layer(segments: list[Segment], stands_for: list[int]) -> Iterator[Segment]:
    """Yield the segments of the whole stack: those of layers that ran repeated for the layers they stand for."""
    more = 0  # bytes that the layers that did not run would hold by now
    for what, found in groupby(segments, key=lambda segment: segment.what):
        run, before = list(found), more
        if what == _FILL:
            more = 0  # from here on their gradients are there
        elif what not in ("forward", "backward"):
            yield from (_raised(segment, more) for segment in run)
        else:
            ran = {segment.layer: segment for segment in run}
            live, order = run[0].start + before, range(len(stands_for))
            for layer in order if what == "forward" else reversed(order):
                if segment := ran.get(stands_for[layer]):
                    yield replace(_raised(segment, live - segment.start), layer=layer)
                    live += segment.end - segment.start
            more = live - run[-1].end


def _raised(segment: Segment, by: int) -> Segment:
    return replace(segment, start=segment.start + by, end=segment.end + by, peak=segment.peak + by)


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Count the bytes of the storages of ``tensors``, shared ones once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
