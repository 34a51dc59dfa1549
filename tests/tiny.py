"""A tiny run, and how to compare what two runs came to. Shared by the tests of train, generate, evaluate and faults."""

import copy
import hashlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import gptwright as gw

WORDS = "the a cat dog bird sat ran flew on under over mat log tree and then but slowly quickly away home again".split()
TIMES = ("train_seconds", "tokens_per_second", "peak_fraction")
"""What may differ between two runs that are equal."""


def text(words: int = 3000, seed: int = 0) -> str:
    """Return sentences of a small language."""
    draw = random.Random(seed)
    pieces = [draw.choice(WORDS) + (".\n" if n % 11 == 10 else " ") for n in range(words)]
    return "".join(pieces)


def settings(book: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a run of 12 steps on ``book``; ``changes`` are dotted keys, None removes one."""
    found: dict[str, Any] = {
        "model": {
            "d_model": 16,
            "n_layers": 2,
            "max_seq_len": 16,
            "attention": {"type": "softmax", "n_heads": 2},
            "dropout": 0.1,
        },
        "optim": {"type": "adamw", "lr": 0.01},
        "train": {
            "steps": 12,
            "tokens_per_step": 64,
            "precision": "fp32",
            "log_every": 1,
            "eval_every": 0,
            "sample_every": 0,
            "sample_tokens": 8,
            "checkpoint_every": 4,
            "trackers": [],
        },
        "data": {"source": str(book), "tokenizer": "char"},
    }
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place.pop(last) if value is None else place.update({last: copy.deepcopy(value)})
    return found


def train(config: Any, folder: Path, **how: Any) -> gw.train:
    """Train quietly."""
    return gw.train(config, run=folder, progress=False, **how)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return all rows of metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curve(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the training rows by step, without what depends on the clock."""
    rows = [row for row in metrics(folder) if "loss" in row]
    kept = {row["step"]: {key: value for key, value in row.items() if key not in TIMES} for row in rows}
    assert len(kept) == len(rows), f"{folder}: a step is logged twice"
    return kept


def checkpoints(folder: Path) -> list[int]:
    """Return the steps of the checkpoints of a run."""
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))


def contents(folder: Path, step: int) -> dict[str, str]:
    """Return the hashes of what a checkpoint says about the model, the optimizer and the random state."""
    where = folder / "checkpoints" / f"step-{step}"
    names = ("model.safetensors", "optimizer.safetensors", "optimizer.json", "random.safetensors")
    found = {name: hashlib.sha256((where / name).read_bytes()).hexdigest() for name in names}
    return {**found, "scaler": json.loads((where / "state.json").read_text())["scaler"]}


def assert_same_runs(first: Path, second: Path) -> None:
    """Make sure that two runs came to the same, bit for bit."""
    step = checkpoints(first)[-1]
    assert checkpoints(second)[-1] == step
    assert contents(first, step) == contents(second, step)
    assert curve(first) == curve(second)
    last = [[row for row in metrics(folder) if "val_loss" in row][-1] for folder in (first, second)]
    for key in ("step", "tokens", "val_loss", "val_bits_per_byte"):
        assert last[0][key] == last[1][key], key


def signal_at(folder: Path, step: int, number: signal.Signals = signal.SIGTERM, pid: int | None = None) -> None:
    """Send a signal to a process (this one) as soon as its run in ``folder`` has logged ``step``."""
    threading.Thread(target=_watch, args=(folder, step, number, pid or os.getpid()), daemon=True).start()


def _watch(folder: Path, step: int, number: signal.Signals, pid: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if reached(folder) >= step:
            os.kill(pid, number)
            return
        time.sleep(0.0005)


def reached(folder: Path) -> int:
    """Return the last step logged so far, 0 before any."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, ValueError, IndexError):
        return 0
