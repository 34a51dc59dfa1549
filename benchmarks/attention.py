"""Causal softmax attention, forward and backward: ours against torch's fused CPU kernel.

Both sides run alternately in one process, in fp32 and bf16, at the shapes that small models train at.

    python benchmarks/attention.py [--rounds 15] [--out FILE.json]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import describe_machine, spread

from gptwright.ops.attention import attention
from gptwright.ops.memory import kept_memory

SHAPES = [(16, 6, 256, 64), (1, 12, 1024, 64), (24, 4, 64, 32)]


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return attention(q, k, v, None, causal=True)


def seconds(mix: Callable[..., torch.Tensor], inputs: list[torch.Tensor], grad: torch.Tensor) -> float:
    began = time.perf_counter()
    mix(*inputs).backward(grad)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            inputs = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]
            grad = torch.randn(shape).to(dtype)
            seen: dict[str, list[float]] = {"torch": [], "gptwright": []}
            with kept_memory():
                for round_ in range(args.rounds + 2):
                    for name, mix in (("torch", sdpa), ("gptwright", ours)):
                        took = seconds(mix, inputs, grad)
                        if round_ >= 2:
                            seen[name].append(took)
            spreads = {name: spread(values) for name, values in seen.items()}
            ratio = spreads["torch"]["median"] / spreads["gptwright"]["median"]
            rows.append({"shape": shape, "dtype": str(dtype), "seconds": spreads, "ratio": ratio})
            words = "  ".join(
                f"{name} {1e3 * s['median']:.2f} ms ({1e3 * s['low']:.2f} to {1e3 * s['high']:.2f})"
                for name, s in spreads.items()
            )
            print(f"{shape!s:20s} {str(dtype)[6:]:9s} {words}  ratio {ratio:.2f}")
    if args.out:
        args.out.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
