"""Mixture of experts: its speed beside a dense feed-forward of equal active FLOPs, and how even its experts become.

Speed: a model of d_model 384 with 8 experts of inner width 512, two a token, against the same model with a dense
feed-forward of width 1024, in fp32 and bf16. Both sides run alternately in one process on the same tokens: the
feed-forward alone and the whole model, forward and backward, and the whole training step, in which AdamW moves
four times the feed-forward weights. The router's own FLOPs (0.3 % of the feed-forward's) are the mixture's to pay.

Balance: a small model learns the Python documentation for 200 steps, by default balanced by bias at the default rate;
the largest load over the mean, in the worst layer, is averaged over the last 20 steps. The goal is at most 1.3.

    python benchmarks/moe.py [--quick] [--rounds 12] [--out FILE.json]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import describe_machine, spread

import gptwright as gw
from gptwright.model.gpt import GPT
from gptwright.ops.memory import kept_memory
from gptwright.ops.precision import choose
from gptwright.ops.sequence import Sequence
from gptwright.train.config import RunConfig
from gptwright.train.step import Stepper

BATCH, CONTEXT, VOCAB, WIDTH, EXPERTS, TOP_K, INNER = 16, 256, 65, 384, 8, 2, 512
SIDES = {
    "dense": {"type": "glu", "d_ff": TOP_K * INNER},
    "moe": {"type": "moe", "n_experts": EXPERTS, "top_k": TOP_K, "d_ff": INNER},
}
Work = Callable[[torch.Tensor], None]


def run_config(feed_forward: dict[str, Any], precision: str, layers: int) -> RunConfig:
    model = {
        "vocab_size": VOCAB,
        "d_model": WIDTH,
        "n_layers": layers,
        "max_seq_len": CONTEXT,
        "attention": {"type": "softmax", "n_heads": 6},
        "feed_forward": feed_forward,
        "position": "rotary",
        "norm": "rms_norm",
    }
    train = {"tokens_per_step": BATCH * CONTEXT, "precision": precision}
    return RunConfig.from_dict({"model": model, "optim": {"type": "adamw", "lr": 1e-3}, "train": train})


def works(feed_forward: dict[str, Any], precision_name: str, layers: int) -> Iterator[tuple[str, Work]]:
    """Yield what is timed, by name."""
    config, precision = run_config(feed_forward, precision_name, layers), choose(precision_name)
    torch.manual_seed(0)
    model = GPT(config.model)
    optimizer = config.build_optimizer(model, precision)
    stepper = Stepper(model, optimizer, config.build_schedule(), config.train, precision)
    working = stepper.working.model.train()
    part = working.layers[0].feed_forward

    def feed_forward_alone(ids: torch.Tensor) -> None:
        seq = Sequence.plain(BATCH, CONTEXT)
        x = working.token_embedding(ids).detach().requires_grad_()
        out = part(x, seq)
        torch.autograd.backward([out, *seq.aux_losses], [torch.ones_like(out), *map(torch.ones_like, seq.aux_losses)])
        part.zero_grad(set_to_none=True)

    def forward_and_backward(ids: torch.Tensor) -> None:
        seq = working.describe(ids)
        loss = working.summed_loss(working.hidden(ids, seq), ids.roll(-1, 1)) / ids.numel()
        (loss + sum(seq.aux_losses)).backward()
        working.zero_grad(set_to_none=True)

    def training_step(ids: torch.Tensor) -> None:
        stepper.step(1, ids, ids.roll(-1, 1))

    for work in (feed_forward_alone, forward_and_backward, training_step):
        yield work.__name__.replace("_", " "), scoped(work, precision)


def scoped(work: Work, precision: Any) -> Work:
    def inside(ids: torch.Tensor) -> None:
        with precision.scope():
            work(ids)

    return inside


def compare(precision: str, rounds: int, layers: int) -> list[dict[str, Any]]:
    """Time both sides in turn; the tokens of each round are others, and so are the loads."""
    sides = {name: dict(works(settings, precision, layers)) for name, settings in SIDES.items()}
    rows = []
    for what in sides["moe"]:
        seen: dict[str, list[float]] = {name: [] for name in sides}
        with kept_memory():
            for round_ in range(rounds + 2):
                ids = torch.randint(0, VOCAB, (BATCH, CONTEXT))
                for name, timed in sides.items():
                    began = time.perf_counter()
                    timed[what](ids)
                    if round_ >= 2:
                        seen[name].append(time.perf_counter() - began)
        rows.append(row(what, precision, seen))
    return rows


def row(what: str, precision: str, seen: dict[str, list[float]]) -> dict[str, Any]:
    spreads = {name: spread(values) for name, values in seen.items()}
    ratio = spreads["dense"]["median"] / spreads["moe"]["median"]
    words = "  ".join(
        f"{name} {1e3 * s['median']:.1f} ms ({1e3 * s['low']:.1f} to {1e3 * s['high']:.1f})"
        for name, s in spreads.items()
    )
    print(f"{what:22s} {precision:5s} {words}  tokens/s of moe over dense {ratio:.3f}", flush=True)
    return {"what": what, "precision": precision, "seconds": spreads, "ratio": ratio}


def balance(steps: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Train a small mixture on real text and return what its loads became."""
    feed_forward = {"type": "moe", "n_experts": EXPERTS, "top_k": TOP_K, "d_ff": 64, **changes}
    model = {
        "d_model": 64,
        "n_layers": 3,
        "max_seq_len": 128,
        "attention": {"type": "softmax", "n_heads": 4},
        "feed_forward": feed_forward,
        "position": "rotary",
        "norm": "rms_norm",
    }
    train = {
        "steps": steps,
        "tokens_per_step": 2048,
        "log_every": 1,
        "eval_every": 0,
        "sample_every": 0,
        "trackers": [],
    }
    data = {"source": "python-docs", "tokenizer": "byte"}
    with tempfile.TemporaryDirectory() as folder:
        settings = {"model": model, "optim": {"type": "adamw", "lr": 3e-3}, "train": train, "data": data}
        result = gw.train(settings, run=Path(folder) / "run", progress=False)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [found for found in map(json.loads, lines) if "expert_load" in found]
    last = rows[-20:]
    means = {name: sum(found[name] for found in last) / len(last) for name in ("expert_load", "expert_load_mean")}
    print(
        f"{json.dumps(changes):44s} after {steps} steps: largest load over mean {means['expert_load']:.3f} "
        f"in the worst layer, {means['expert_load_mean']:.3f} over layers; it began at {rows[0]['expert_load']:.3f}; "
        f"val loss {result.val_loss:.4f}",
        flush=True,
    )
    return {"changes": changes, "steps": steps, **means, "began": rows[0]["expert_load"], "val_loss": result.val_loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and balance by bias alone")
    parser.add_argument("--only", choices=("speed", "balance"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rounds, layers = (3, 1) if args.quick else (args.rounds, args.layers)
    ways = [{"balance": "bias"}, {"balance": "bias", "router": "sigmoid"}, {"balance": "loss"}, {"balance": "none"}]
    speed, loads = [], []
    if args.only != "balance":
        speed = [each for precision in ("fp32", "bf16") for each in compare(precision, rounds, layers)]
    if args.only != "speed":
        loads = [balance(200, changes) for changes in (ways[:1] if args.quick else ways)]
    if args.out:
        found = {"machine": describe_machine(), "speed": speed, "balance": loads}
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
