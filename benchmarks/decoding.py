"""What the decode benchmarks share: models of given shapes, and both sides writing in turn."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import spread

from gptwright.generate.engine import Engine, Request, Ticket
from gptwright.generate.sampling import Sampling
from gptwright.model.config import ModelConfig
from gptwright.model.gpt import GPT

SOFTMAX = {"type": "softmax", "n_heads": 6}
GPT2_PARTS = {
    "feed_forward": {"type": "mlp", "activation": "gelu_tanh"},
    "norm": {"type": "layer_norm", "eps": 1e-5},
    "position": "learned",
    "bias": True,
    "tie_embeddings": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "124M": {"vocab_size": 50257, "d_model": 768, "n_layers": 12, "max_seq_len": 1024, "n_heads": 12},
    "10M": {"vocab_size": 65, "d_model": 384, "n_layers": 6, "max_seq_len": 256, "n_heads": 6},
    "tiny": {"vocab_size": 65, "d_model": 48, "n_layers": 2, "max_seq_len": 64, "n_heads": 4},
}
"""GPT-2 shapes; `tiny` only shows that a script runs."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Side = Callable[[list[int], int], list[int]]
"""Continues ids by so many tokens, greedily, and returns the new ones."""


def gpt2(shape: str, seed: int = 0) -> GPT:
    """Return a GPT-2 of random weights, not so small that greedy tokens are ties."""
    settings = dict(SHAPES[shape])
    attention = {"type": "softmax", "n_heads": settings.pop("n_heads")}
    return build({**settings, **GPT2_PARTS, "attention": attention, "init": {"std": 0.05}}, seed)


def build(settings: dict[str, Any], seed: int = 0) -> GPT:
    """Return a model of random weights."""
    torch.manual_seed(seed)
    return GPT(ModelConfig.from_dict(settings)).eval()


def greedy(ids: Sequence[int], new_tokens: int) -> Request:
    """Return a request for exactly so many likeliest tokens."""
    return Request(list(ids), Sampling(temperature=0, max_new_tokens=new_tokens, ignore_end=True))


def writer(model: GPT, speculation: Any = None) -> Side:
    """Return our side; each call begins anew."""
    engine = Engine(model, rows=1, reuse="none", speculation=speculation)

    def write(ids: list[int], new_tokens: int) -> list[int]:
        ticket: Ticket = engine.submit(greedy(ids, new_tokens))
        engine.run()
        return ticket.ids

    return write


def prompts(vocab: int, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Return random prompts of given lengths."""
    draw = random.Random(seed)
    return [[draw.randrange(vocab) for _ in range(length)] for length in lengths]


def alternate(sides: dict[str, Side], ids: Sequence[list[int]], new_tokens: int) -> dict[str, dict[str, float]]:
    """Let all sides continue each of ``ids`` in turn, after a warm-up; return the spread of seconds a token."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for place, prompt in enumerate([ids[0], *ids]):
        for name, write in sides.items():
            began = time.perf_counter()
            found = write(prompt, new_tokens)
            if place:
                seen[name].append((time.perf_counter() - began) / len(found))
    return {name: spread(values) for name, values in seen.items()}


def table(times: dict[str, dict[str, float]], base: str) -> dict[str, float]:
    """Print seconds a token of every side and its speed over that of ``base``; return the ratios."""
    ratios = {name: times[base]["median"] / each["median"] for name, each in times.items()}
    for name, each in times.items():
        milliseconds = {key: 1e3 * value for key, value in each.items()}
        print(
            f"  {name:28s} {milliseconds['median']:8.3f} ms a token ({milliseconds['low']:.3f} to "
            f"{milliseconds['high']:.3f})  {1 / each['median']:9.1f} tokens/s  {ratios[name]:6.2f} x {base}",
            flush=True,
        )
    return ratios


def agreement(ours: list[int], theirs: list[int]) -> int:
    """Return how many tokens at the beginning are equal."""
    return next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
