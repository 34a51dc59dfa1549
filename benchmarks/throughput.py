"""Training throughput at d_model 384, 6 layers, 6 heads, context 256, batch 16, 65 tokens: ours against a plain peer.

The peer is the `transformers` GPT-2 of the same shape (its GELU by tanh, biases, learned positions: ours has
them too), trained eagerly in fp32 with fused AdamW and gradient clipping: once as fast as it goes (SDPA, no
dropout), once with its eager attention, once with the dropout it has by default. All sides run alternately
in one process; medians and the middle half of the steps are printed, with the share of this machine's
measured bf16 matmul peak that each reaches by the usual count (6 x matrix weights + 12 x layers x width x
context FLOPs a token).

    python benchmarks/throughput.py [--rounds 5] [--steps 4] [--out FILE.json]
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from common import describe_machine, spread
from transformers import GPT2Config, GPT2LMHeadModel

from gptwright.model.gpt import GPT
from gptwright.ops.memory import kept_memory
from gptwright.ops.precision import choose, measure
from gptwright.train.config import RunConfig
from gptwright.train.step import Stepper

BATCH, CONTEXT, VOCAB, WIDTH, LAYERS, HEADS = 16, 256, 65, 384, 6, 6


def our_step(precision_name: str) -> tuple[Callable[[int, torch.Tensor], None], RunConfig]:
    config = RunConfig.from_dict(
        {
            "model": {
                "vocab_size": VOCAB,
                "d_model": WIDTH,
                "n_layers": LAYERS,
                "max_seq_len": CONTEXT,
                "attention": {"type": "softmax", "n_heads": HEADS},
                "feed_forward": {"type": "mlp", "activation": "gelu_tanh"},
                "bias": True,
            },
            "optim": {"type": "adamw", "lr": 1e-3},
            "train": {"tokens_per_step": BATCH * CONTEXT, "precision": precision_name},
        }
    )
    precision = choose(precision_name)
    torch.manual_seed(0)
    model = GPT(config.model)
    optimizer = config.build_optimizer(model, precision)
    stepper = Stepper(model, optimizer, config.build_schedule(), config.train, precision)

    def step(index: int, ids: torch.Tensor) -> None:
        with precision.scope():
            stepper.step(index, ids[:, :-1].contiguous(), ids[:, 1:].contiguous())

    return step, config


def peer_step(**settings: Any) -> Callable[[int, torch.Tensor], None]:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    plain = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    special = {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(**{**shape, **plain, **special, **settings})
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(index: int, ids: torch.Tensor) -> None:
        del index
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def timed(step: Callable[[int, torch.Tensor], None], steps: int, seen: list[float]) -> None:
    for index in range(steps):
        ids = torch.randint(0, VOCAB, (BATCH, CONTEXT + 1))
        began = time.perf_counter()
        step(index, ids)
        seen.append(time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    ours, config = our_step("auto")
    sides: dict[str, Callable[[int, torch.Tensor], None]] = {
        "gptwright": ours,
        "transformers, SDPA": peer_step(),
        "transformers, eager attention": peer_step(attn_implementation="eager"),
        "transformers, its own dropout 0.1": peer_step(resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: list[float] = []
    for step in sides.values():
        timed(step, 2, [])
    for _ in range(args.rounds):
        measure.cache_clear() if hasattr(measure, "cache_clear") else None
        peaks.append(measure("bf16").flops)
        for name, step in sides.items():
            with (
                kept_memory() if name.startswith("gptwright") else nullcontext()
            ):  # what a run does, and a peer does not
                timed(step, args.steps, seconds[name])

    tokens, flops = BATCH * CONTEXT, config.model.flops_per_token(context=CONTEXT)
    peak = spread(peaks)["median"]
    rows = {}
    for name, seen in seconds.items():
        step = spread(seen)
        rows[name] = {
            "seconds_per_step": step,
            "tokens_per_second": tokens / step["median"],
            "share_of_bf16_peak": tokens * flops / step["median"] / peak,
        }
        print(
            f"{name:34s} {1e3 * step['median']:8.1f} ms/step ({1e3 * step['low']:.1f} to {1e3 * step['high']:.1f})  "
            f"{tokens / step['median']:9.0f} tokens/s  {100 * rows[name]['share_of_bf16_peak']:5.1f} % of bf16 peak"
        )
    speed = {name: row["tokens_per_second"] for name, row in rows.items()}
    ratios = {name: speed["gptwright"] / value for name, value in speed.items() if name != "gptwright"}
    print(f"bf16 matmul peak {peak / 1e9:.0f} GFLOP/s; {flops / 1e6:.1f} MFLOP a token")
    print("ratio: " + "; ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    result = {"machine": describe_machine(), "peak": peak, "flops_per_token": flops, "rows": rows, "ratios": ratios}
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
