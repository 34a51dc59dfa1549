"""How fast a model writes, and how fast the memory of the machine would let it.

Shapes: n sequences that write, V vocabulary, E width of the token embedding.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from gptwright.errors import GptwrightError
from gptwright.generate.engine import Engine, Request, Ticket
from gptwright.generate.gate import Clock
from gptwright.generate.sampling import Sampling
from gptwright.model.gpt import GPT
from gptwright.nn.feed_forward.moe import MoE
from gptwright.ops import precision as precisions

DTYPES = {name: precisions.DTYPES[name] for name in ("fp32", "bf16")}
_SETTLING = 3  # steps at the beginning that are not counted, where there are enough others


@dataclass(frozen=True)
class Spread:
    """The middle of several durations, and the bounds of the middle half, in seconds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """Return the spread of at least one duration."""
        ordered = sorted(seconds)
        quarter = len(ordered) // 4
        return cls(median(ordered), ordered[quarter], ordered[-1 - quarter])


@dataclass(frozen=True)
class Speed:
    """How fast ``rows`` texts were written at once."""

    rows: int
    prompt_tokens: int
    new_tokens: int
    first_token: Spread
    """Seconds from handing in a prompt, with nothing else to do, to its first token."""
    step: Spread
    """Seconds of a step, which gives each text one token."""
    weight_bytes: int
    """Bytes of weights that a step touches."""
    state_bytes: int
    """Bytes of decode state that a step touches, half-way through the new tokens."""
    bandwidth: float
    """Bytes that this machine reads a second."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all texts together."""
        return self.rows / self.step.median

    @property
    def bytes_per_step(self) -> int:
        """Bytes that a step has to read."""
        return self.weight_bytes + self.state_bytes

    @property
    def fraction(self) -> float:
        """Part of the machine's bandwidth that steps reached."""
        return self.bytes_per_step / self.step.median / self.bandwidth

    @property
    def overhead(self) -> float:
        """Seconds of a step beyond those that reading its bytes takes."""
        return self.step.median - self.bytes_per_step / self.bandwidth

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, derived ones included, as plain data."""
        derived = ("tokens_per_second", "bytes_per_step", "fraction", "overhead")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


def decode_speed(
    model: GPT, *, prompt_tokens: int, new_tokens: int, rows: int, bandwidth: float, clock: Clock, seed: int = 0
) -> Speed:
    """Measure how ``model`` continues ``rows`` random prompts greedily.

    Args:
        model: the model.
        prompt_tokens: tokens of each prompt.
        new_tokens: tokens to add, at least 2.
        rows: texts at once.
        bandwidth: bytes that the machine reads a second, see `gptwright.generate.bandwidth`.
        clock: returns seconds, as `time.perf_counter` does.
        seed: of the prompts.

    Raises:
        GptwrightError: a number is too small, or positions end before the last token.
    """
    _check(model, prompt_tokens, new_tokens, rows)
    draw = random.Random(seed)
    engine = Engine(model, rows=rows, reuse="none")
    first = [_first_token(engine, _request(model, draw, prompt_tokens, 1), clock) for _ in range(4)]
    requests = [_request(model, draw, prompt_tokens, new_tokens) for _ in range(rows)]
    steps = _steps(engine, [engine.submit(request) for request in requests], clock)
    return Speed(
        rows,
        prompt_tokens,
        new_tokens,
        Spread.of(first[1:]),
        Spread.of(steps[_SETTLING:] if len(steps) > 2 * _SETTLING else steps),
        weight_bytes(model, rows),
        rows * state_bytes(model, prompt_tokens + new_tokens // 2),
        bandwidth,
    )


def weight_bytes(model: GPT, rows: int = 1) -> int:
    """Return the bytes of weights that a step of ``rows`` tokens touches.

    Shared storage counts once, of tables only the rows that are looked up, and of experts those that so many tokens
    visit when all are equally busy.
    """
    tables = {*model.token_embedding.modules(), *model.position.modules()} - {*model.lm_head.modules()}
    touched: dict[int, float] = {}
    for module, tensor, share in _shares(model, rows):
        if module in tables and tensor.ndim == 2:
            share *= min(1.0, rows / len(tensor))
        place = tensor.data_ptr()  # the head reads all of a table that it shares
        touched[place] = max(touched.get(place, 0.0), share * tensor.nbytes)
    return round(sum(touched.values()))


def state_bytes(model: GPT, length: int) -> int:
    """Return the bytes of decode state that a token after ``length`` others touches."""
    dtype = next(weight.dtype for weight in model.parameters() if weight.dtype.is_floating_point)
    return model.config.state_bytes(length, dtype.itemsize)


def prepared(model: GPT, precision: str | None) -> GPT:
    """Return ``model`` in ``precision``, itself where it has it or None is given.

    Raises:
        GptwrightError: there is no such precision.
    """
    if precision is None:
        return model
    if precision not in DTYPES:
        raise GptwrightError(f"precision is {precision!r} and must be one of {', '.join(DTYPES)}")
    dtype = DTYPES[precision]
    return model if all(weight.dtype == dtype for weight in model.parameters()) else model.twin(dtype).eval()


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Compute with so many threads for the time being; None leaves their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shares(model: GPT, rows: int) -> Iterator[tuple[nn.Module, Tensor, float]]:
    """Yield the weights of every module, and which part of them is touched."""
    shares: dict[nn.Module, float] = {}
    for module in model.modules():
        if isinstance(module, MoE):
            visited = _visited(len(module.experts), module.config.top_k, rows)
            shares |= {part: visited for expert in module.experts for part in expert.modules()}
        tensors = list(module.parameters(recurse=False))
        buffers = list(module.buffers(recurse=False))
        if any(buffer.dtype in (torch.int8, torch.uint8) for buffer in buffers):  # weights that were quantized
            tensors += buffers
        yield from ((module, tensor, shares.get(module, 1.0)) for tensor in tensors)


def _visited(experts: int, top_k: int, rows: int) -> float:
    """Return which part of the experts ``rows`` tokens visit, each ``top_k`` of them at random."""
    return 1 - (1 - top_k / experts) ** rows


def _request(model: GPT, draw: random.Random, prompt_tokens: int, new_tokens: int) -> Request:
    vocab = model.config.require_vocab_size()
    ids = [draw.randrange(vocab) for _ in range(prompt_tokens)]
    return Request(ids, Sampling(temperature=0, max_new_tokens=new_tokens, ignore_end=True))


def _first_token(engine: Engine, request: Request, clock: Clock) -> float:
    began = clock()
    ticket = engine.submit(request)
    next(engine.iterate(ticket))
    seconds = clock() - began
    engine.run()
    return seconds


def _steps(engine: Engine, tickets: Sequence[Ticket], clock: Clock) -> list[float]:
    """Return the durations of the steps in which all of ``tickets`` get a token."""
    while not all(ticket.ids or ticket.done for ticket in tickets):
        engine.step()
    seconds: list[float] = []
    while not any(ticket.done for ticket in tickets):
        began = clock()
        engine.step()
        seconds.append(clock() - began)
    engine.run()
    for ticket in tickets:
        if ticket.error is not None:
            raise ticket.error
    if not seconds:
        raise GptwrightError(
            f"the first of {len(tickets)} texts was done before the last had begun; ask for more new tokens"
        )
    return seconds


def _check(model: GPT, prompt_tokens: int, new_tokens: int, rows: int) -> None:
    for name, value, least in (("prompt_tokens", prompt_tokens, 1), ("new_tokens", new_tokens, 2), ("rows", rows, 1)):
        if value < least:
            raise GptwrightError(f"{name} is {value} and must be at least {least}")
    limit = model.config.position.limit(model.config.context(0))
    if limit is not None and prompt_tokens + new_tokens > limit:
        raise GptwrightError(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones are more than the {limit} positions that this "
            "model has; ask for fewer"
        )
