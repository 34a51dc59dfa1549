"""Memory of training: what `gptwright count` foresees against what a process really takes.

Each case runs in processes of its own: imports and a first small step, which loads the kernels, are the baseline;
then come two real training steps (`Stepper`), and the highest resident size that the system saw. One process gives
every tensor pages of its own, so that its size is that of its tensors (glibc's MALLOC_MMAP_THRESHOLD_); another one
keeps freed memory as a run does (`kept_memory`), and so also holds what fits nothing. The estimate is made beforehand,
without data. Linux only.

    python benchmarks/memory.py [--only NAME] [--out FILE.json]
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from common import describe_machine

from gptwright.model.freeze import choose_trained
from gptwright.model.gpt import GPT
from gptwright.ops.memory import kept_memory
from gptwright.ops.precision import Precision
from gptwright.train.config import RunConfig
from gptwright.train.memory import training_memory
from gptwright.train.step import Stepper

SOFTMAX = {"type": "softmax", "n_heads": 6}
LOCAL = {"type": "local", "n_heads": 6, "window": 128}
MOE = {"type": "moe", "n_experts": 8, "top_k": 2, "d_ff": 512}
CASES: dict[str, dict[str, Any]] = {
    "softmax-mlp-fp32-adamw": {"attention": SOFTMAX, "rows": 6, "context": 512},
    "local-glu-bf16-muon": {
        "attention": LOCAL,
        "feed_forward": "glu",
        "norm": "rms_norm",
        "position": "rotary",
        "rows": 4,
        "context": 1024,
        "precision": "bf16",
        "optim": "muon",
    },
    "softmax-moe-fp32-adamw": {"attention": SOFTMAX, "feed_forward": MOE, "rows": 4, "context": 512},
    "softmax-moe-bf16-muon": {
        "attention": SOFTMAX,
        "feed_forward": MOE,
        "rows": 4,
        "context": 512,
        "precision": "bf16",
        "optim": "muon",
    },
    "linear-mlp-fp32-muon": {"attention": {"type": "linear", "n_heads": 6}, "rows": 4, "context": 512, "optim": "muon"},
    "large-vocabulary-bf16-adamw": {
        "attention": SOFTMAX,
        "vocab_size": 50257,
        "n_layers": 4,
        "rows": 2,
        "context": 512,
        "precision": "bf16",
    },
    "wide-few-tokens-fp32-adamw": {"attention": SOFTMAX, "d_model": 768, "n_layers": 6, "rows": 1, "context": 128},
    "wide-few-tokens-bf16-muon": {
        "attention": SOFTMAX,
        "d_model": 768,
        "n_layers": 6,
        "rows": 1,
        "context": 128,
        "precision": "bf16",
        "optim": "muon",
    },
    "accumulated-fp32-adamw": {
        "attention": SOFTMAX,
        "d_model": 768,
        "n_layers": 6,
        "rows": 2,
        "context": 256,
        "micro_batches": 2,
    },
    "accumulated-bf16-adamw": {
        "attention": SOFTMAX,
        "d_model": 768,
        "n_layers": 6,
        "rows": 2,
        "context": 256,
        "micro_batches": 2,
        "precision": "bf16",
    },
    "dropout-untied-fp32-adamw": {
        "attention": SOFTMAX,
        "dropout": 0.1,
        "tie_embeddings": False,
        "rows": 4,
        "context": 512,
    },
    "half-frozen-fp32-adamw": {
        "attention": SOFTMAX,
        "freeze": ["token_embedding", "layers.[01]"],
        "rows": 6,
        "context": 512,
    },
    "checkpointed-fp32-adamw": {"attention": SOFTMAX, "checkpointing": True, "rows": 8, "context": 512},
}
STEPS = 2
"""The second has the state of the optimizer from its beginning, as all later ones."""


def settings(case: dict[str, Any], *, small: bool = False) -> RunConfig:
    """Return the run of a case; ``small`` is one that only loads the kernels."""
    case = dict(case)
    rows, context = case.pop("rows"), case.pop("context")
    train = {
        "precision": case.pop("precision", "fp32"),
        "micro_batch": rows,
        "tokens_per_step": rows * case.pop("micro_batches", 1) * context,
        "freeze": case.pop("freeze", []),
        "gradient_checkpointing": "block" if case.pop("checkpointing", False) else "none",
    }
    optim = case.pop("optim", "adamw")
    model = {"vocab_size": 4096, "d_model": 384, "n_layers": 4, "max_seq_len": context, **case}
    if small:
        model |= {"n_layers": 1, "vocab_size": 64}
        train |= {"micro_batch": 1, "tokens_per_step": context, "freeze": []}
    return RunConfig.from_dict({"model": model, "optim": optim, "train": train})


def train_some(config: RunConfig, steps: int) -> None:
    """Build a model and train it on random tokens."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.train.precision]
    precision = Precision("bf16" if dtype == torch.bfloat16 else "fp32", dtype, "highest", "")
    model = GPT(config.model)
    choose_trained(model, config.train.freeze, config.train.unfreeze)
    optimizer = config.build_optimizer(model, precision)
    stepper = Stepper(model, optimizer, config.build_schedule(), config.train, precision)
    vocab, context = config.model.require_vocab_size(), config.model.max_seq_len
    with precision.scope():
        for step in range(steps):
            ids = torch.randint(vocab, (config.rows_per_step, context + 1))
            stepper.step(step, ids[:, :-1], ids[:, 1:])


def resident(field: str) -> int:
    """Return `VmRSS` or `VmHWM` of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(case: dict[str, Any], *, kept: bool) -> dict[str, float]:
    """Train in this process, which must be fresh, and return what it took."""
    train_some(settings(case, small=True), 2)
    gc.collect()  # the small model goes, before it is counted as there from the start
    ctypes.CDLL(None).malloc_trim(0)
    before, began = resident("VmRSS"), time.perf_counter()
    with kept_memory() if kept else nullcontext():
        train_some(settings(case), STEPS)
    return {"bytes": resident("VmHWM") - before, "seconds": time.perf_counter() - began}


def measure_apart(name: str, *, kept: bool) -> dict[str, float]:
    """Do what `measure` does in a process of its own."""
    own_pages = {f"MALLOC_{each}_THRESHOLD_": "65536" for each in ("MMAP", "TRIM")}
    command = [sys.executable, __file__, "--measure", name, *(["--kept"] if kept else [])]
    environment = {**os.environ, **({} if kept else own_pages)}
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def compare(name: str, *, kept: bool) -> dict[str, Any]:
    """Return the estimate of a case, and what processes of their own took."""
    config, precision = settings(CASES[name]), CASES[name].get("precision", "fp32")
    began = time.perf_counter()
    foreseen = training_memory(config, precision=precision)
    seconds, exact = time.perf_counter() - began, measure_apart(name, kept=False)
    row = {"case": name, **foreseen.to_dict(), "estimate_seconds": seconds}
    row |= {"measured": exact["bytes"], "seconds": exact["seconds"], "ratio": foreseen.peak / exact["bytes"]}
    return row | ({"process": measure_apart(name, kept=True)["bytes"]} if kept else {})


def line(row: dict[str, Any]) -> str:
    """Return a row as people read it."""
    words = f"{row['case']:<30} foreseen {row['peak'] / 1e6:7.1f} MB  measured {row['measured'] / 1e6:7.1f} MB"
    process = f"  a run's process {row['process'] / 1e6:7.1f} MB" if "process" in row else ""
    return f"{words}  ratio {row['ratio']:.3f}{process}  peak in: {row['peak_at']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, action="append", help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="leave out the processes that keep freed memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object a case")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(CASES[arguments.measure], kept=arguments.kept)))
        return
    rows = []
    for name in arguments.only or CASES:
        rows.append(compare(name, kept=not arguments.quick))
        print(json.dumps(rows[-1]) if arguments.json else line(rows[-1]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": describe_machine(), "cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
