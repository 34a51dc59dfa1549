"""A tiny run, and how to compare what two runs came to. Shared by the tests of train, generate, evaluate and faults."""

import copy
import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import gptwright as gw

WORDS = "the a cat dog bird sat ran flew on under over mat log tree and then but slowly quickly away home again"
TIMES = ("train_seconds", "tokens_per_second", "peak_fraction", "memory_bytes")
"""What may differ between two runs that are equal."""


def text(words: int = 3000, seed: int = 0) -> str:
    """Return sentences of a small language."""
    draw, words_known = random.Random(seed), WORDS.split()
    pieces = [draw.choice(words_known) + (".\n" if n % 11 == 10 else " ") for n in range(words)]
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


def python(code: str, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a Python of its own, in ``folder``, that finds this gptwright and nothing else of ours."""
    home = str(Path(gw.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": home, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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


def reached(folder: Path) -> int:
    """Return the last step that a run has logged so far, 0 before any."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, ValueError, IndexError):
        return 0


class _Stopper(io.StringIO):
    """A stderr that sends this process a signal, once or more, the moment a step is shown on it."""

    def __init__(self, step: int, number: signal.Signals, times: int) -> None:
        super().__init__()
        self.step, self.number, self.times = step, number, times

    def write(self, shown: str) -> int:
        step = re.match(r"step +(\d+)/", shown)
        if step and int(step[1]) == self.step:
            self.step = -1
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        return super().write(shown)


def train_until(
    step: int, config: Any, folder: Path, number: signal.Signals = signal.SIGTERM, times: int = 1, **how: Any
) -> Any:
    """Train until a signal comes at ``step``, which must be logged."""
    with redirect_stderr(_Stopper(step, number, times)):
        result = gw.train(config, run=folder, **how)
    assert (result.step, result.interrupted) == (step, True)
    return result
