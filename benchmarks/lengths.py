"""What a token costs as sequences grow: attentions at T = 1K to 16K, forward and backward, batch 1, width 384, 6 heads.

For each attention in the menu that is asked for, in bf16 and fp32: microseconds a token (median and middle half of
rounds that go through all lengths and attentions alternately in one process), how that grows from the first length,
how its FLOPs grow, and the peak of memory that a pass allocates. FLOPs are what the component's `flops_per_token`
says, averaged over the contexts 1 to T that a causal text has ("exact"), and at context T ("at T").
Then: local attention against torch's SDPA under a dense T x T window mask, and linear decoding, early and late.

    python benchmarks/lengths.py [--rounds 5] [--quick] [--out FILE.json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import describe_machine, spread

from gptwright.model.config import ModelConfig
from gptwright.model.gpt import GPT
from gptwright.nn.slots import ATTENTION
from gptwright.ops.local_attention import local_attention
from gptwright.ops.memory import kept_memory
from gptwright.ops.precision import choose
from gptwright.ops.sequence import Sequence

WIDTH, HEADS, WINDOW = 384, 6, 256
LENGTHS, QUICK = (1024, 2048, 4096, 8192, 16384), (128, 256)
MIXERS: dict[str, dict[str, Any]] = {"softmax": {}, "local": {"window": WINDOW}, "linear": {}, "gated_delta": {}}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
POSITIONS, QUICK_POSITIONS = (100, 100_000), (100, 1000)


class Mixer:
    """One attention of a model, and what it costs by its settings."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        settings = {"type": name, "n_heads": HEADS, **MIXERS[name]}
        config = ModelConfig.from_dict(
            {"vocab_size": 2, "d_model": WIDTH, "n_layers": 1, "max_seq_len": max(LENGTHS), "attention": settings}
        )
        torch.manual_seed(0)
        model = GPT(config)
        self.module: Any = model.get_submodule("layers.0.attention").to(dtype)
        self.dtype, self.ctx = dtype, config.context(0)

    def train(self, length: int) -> Callable[[], None]:
        """Return one forward and backward pass over ``length`` tokens."""
        x = torch.randn(1, length, WIDTH).to(self.dtype).requires_grad_()
        grad = torch.randn(1, length, WIDTH).to(self.dtype)

        def step() -> None:
            self.module(x, Sequence.plain(1, length)).backward(grad)
            x.grad = None
            self.module.zero_grad(set_to_none=True)

        return step

    def flops(self, length: int) -> dict[str, float]:
        """Count the FLOPs of a token, averaged over the contexts 1 to ``length`` and at the last."""
        samples = [self._flops(round((i + 0.5) * length / 64)) for i in range(64)]
        return {"exact": statistics.mean(samples), "at_length": self._flops(length)}

    def _flops(self, context: int) -> int:
        return 3 * self.module.config.flops_per_token(self.ctx, max(1, context))


def seconds(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peak_bytes(step: Callable[[], None]) -> int:
    """Return by how much what the allocator holds grows at most during a pass, kernels' own scratch included."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    results: Any = profile.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def alternately(steps: dict[Any, Callable[[], None]], rounds: int) -> dict[Any, list[float]]:
    """Run every step once a round, after one round that is not counted, and return the seconds of each."""
    seen: dict[Any, list[float]] = {key: [] for key in steps}
    with kept_memory():
        for round_ in range(rounds + 1):
            for key, step in steps.items():
                took = seconds(step)
                if round_:
                    seen[key].append(took)
    return seen


@contextmanager
def computing(precision: str) -> Iterator[torch.dtype]:
    """Compute as a run of this precision does."""
    with choose(precision).scope():
        yield DTYPES[precision]


def by_length(precision: str, lengths: Iterable[int], rounds: int) -> list[dict[str, Any]]:
    """Measure each attention at each length, print it, and return the figures."""
    rows = []
    with computing(precision) as dtype:
        mixers = {name: Mixer(name, dtype) for name in MIXERS if name in ATTENTION.names()}
        steps = {(name, length): mixers[name].train(length) for name in mixers for length in lengths}
        seen = alternately(steps, rounds)
        for (name, length), took in seen.items():
            found = spread([1e6 * s / length for s in took])
            row = {"precision": precision, "attention": name, "length": length, "microseconds_per_token": found}
            first = next((r for r in rows if r["attention"] == name), row)
            row["flops_per_token"] = mixers[name].flops(length)
            row["growth"] = found["median"] / first["microseconds_per_token"]["median"]
            row["flops_growth"] = {k: f / first["flops_per_token"][k] for k, f in row["flops_per_token"].items()}
            row["peak_bytes"] = peak_bytes(steps[name, length])
            rows.append(row)
            print(sentence(row))
    for name in MIXERS.keys() - mixers.keys():
        print(f"{name}: not in the menu, left out")
    return rows


def sentence(row: dict[str, Any]) -> str:
    cost, grown = row["microseconds_per_token"], row["flops_growth"]
    return (
        f"{row['attention']:12s} {row['precision']} T {row['length']:6d}  "
        f"{cost['median']:8.2f} us/token ({cost['low']:.2f} to {cost['high']:.2f})  growth {row['growth']:6.2f}  "
        f"FLOPs' growth {grown['exact']:6.2f} exact, {grown['at_length']:6.2f} at T  "
        f"ratio {row['growth'] / grown['exact']:.2f}, {row['growth'] / grown['at_length']:.2f}  "
        f"peak {row['peak_bytes'] / 2**20:.1f} MiB"
    )


def window_against_mask(precision: str, length: int, rounds: int) -> dict[str, Any]:
    """Compare local attention with SDPA under a dense mask: the mixing alone, of the same queries, keys and values."""
    with computing(precision) as dtype:
        shape = (1, HEADS, length, WIDTH // HEADS)
        inputs = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]
        grad = torch.randn(shape).to(dtype)

        def dense() -> None:
            mask = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - WINDOW)
            torch.autograd.grad(F.scaled_dot_product_attention(*inputs, attn_mask=mask), inputs, grad)

        def local() -> None:
            mixed = local_attention(inputs[0], inputs[1], inputs[2], Sequence.plain(1, length), WINDOW)
            torch.autograd.grad(mixed, inputs, grad)

        seen = {name: spread(took) for name, took in alternately({"dense": dense, "local": local}, rounds).items()}
        memory = {"dense": peak_bytes(dense), "local": peak_bytes(local)}
    results = 4 * grad.nbytes  # the output and three gradients, which both sides hand over
    own = {name: max(1, peak - results) for name, peak in memory.items()}
    faster = seen["dense"]["median"] / seen["local"]["median"]
    ms = {name: 1e3 * took["median"] for name, took in seen.items()}
    print(
        f"local against a dense mask, {precision} T {length}: {ms['local']:.1f} ms against {ms['dense']:.1f} ms, "
        f"{faster:.1f} times faster; peak {memory['local'] / 2**20:.1f} against {memory['dense'] / 2**20:.1f} MiB, "
        f"{memory['dense'] / memory['local']:.1f} times less; beside results and gradients "
        f"{own['local'] / 2**20:.1f} against {own['dense'] / 2**20:.1f} MiB, {own['dense'] / own['local']:.1f} times"
    )
    return {"precision": precision, "length": length, "seconds": seen, "peak_bytes": memory, "beside_results": own}


@torch.no_grad()
def decoding(precision: str, positions: tuple[int, ...], steps: int) -> dict[str, Any]:
    """Compare the time of one more token through linear attention's state, early and late."""
    with computing(precision) as dtype:
        mixer = Mixer("linear", dtype)
        module, states = mixer.module.eval(), {}
        for position in positions:
            states[position] = module.init_state(1, position)
            for start in range(0, position, 1000):
                size = min(1000, position - start)
                x = torch.randn(1, size, WIDTH).to(dtype)
                module(x, Sequence.plain(1, size, start=start), states[position])
        nbytes = {position: state.nbytes for position, state in states.items()}
        x, at = torch.randn(1, 1, WIDTH).to(dtype), dict.fromkeys(positions, 0)

        def one_more(position: int) -> None:
            module(x, Sequence.plain(1, 1, start=position + at[position]), states[position])
            at[position] += 1

        seen = alternately({p: lambda p=p: one_more(p) for p in positions}, steps)
    took = {position: spread([1e6 * s for s in found]) for position, found in seen.items()}
    early, late = (took[position]["median"] for position in positions)
    print(
        f"linear decoding, {precision}: {early:.1f} us a token at position {positions[0]}, {late:.1f} us at "
        f"{positions[1]}, ratio {late / early:.3f}; state of {nbytes[positions[0]]} and {nbytes[positions[1]]} bytes"
    )
    return {"precision": precision, "microseconds": took, "state_bytes": nbytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether the script runs, no figures")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lengths, positions = (QUICK, QUICK_POSITIONS) if args.quick else (LENGTHS, POSITIONS)
    dense, steps = (lengths[-1], 20) if args.quick else (8192, 1000)
    found: dict[str, Any] = {"machine": describe_machine(), "lengths": [], "window": [], "decoding": []}
    for precision in DTYPES:
        found["lengths"] += by_length(precision, lengths, 1 if args.quick else args.rounds)
        found["window"].append(window_against_mask(precision, dense, 1 if args.quick else args.rounds))
        found["decoding"].append(decoding(precision, positions, steps))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
