"""Runs that are killed again and again, compared bit for bit with the same runs left in peace.

Each run is a `python -m gptwright train` of its own, with one thread. It gets SIGKILL at a random moment: one time in
five while it starts, otherwise after it has begun to train or to go on, and then the logarithm of the moment is drawn
evenly, up to the time that the whole training takes. It is continued with `--resume` and killed again, until it has had
its share of kills; then it is let finish.

After every kill the folder must be readable: a model, or the sentence that nothing was saved yet. At the end
weights, averages, optimizer, random state and curve must be those of the run that nobody killed.

    python benchmarks/kills.py [--kills 200] [--seed 0] [--only NAME ...] [--out FILE.json]
"""

import argparse
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common import describe_machine

import gptwright as gw
from gptwright.config.yaml import dump

STEPS = 60
WORDS = "the a cat dog bird sat ran flew on under mat log tree and then slowly away"
LIMIT = 300.0
"""Seconds after which a run has hung."""
CLOCK = ("train_seconds", "tokens_per_second", "peak_fraction", "memory", "peak_memory", "eta", "stall", "stalled")
"""Parts of names of figures that time or the machine decides, which may differ."""
_MOE = {"type": "moe", "n_experts": 3, "d_ff": 24, "balance": "bias"}

COMBINATIONS: dict[str, dict[str, Any]] = {
    "softmax adamw fp32 dropout": {"model": {"dropout": 0.1}},
    "latent moe muon bf16": {
        "model": {"attention": {"type": "latent", "n_heads": 2}, "feed_forward": _MOE, "position": "rotary"},
        "optim": {"type": "muon", "lr": 0.01},
        "train": {"precision": "bf16"},
    },
    "local lion fp16 accumulation": {
        "model": {"attention": {"type": "local", "n_heads": 2, "window": 8}, "dropout": 0.1},
        "optim": {"type": "lion", "lr": 0.001},
        "train": {"precision": "fp16", "micro_batch": 2},
    },
    "gated delta ema bf16 recomputed": {
        "model": {"attention": {"type": "gated_delta", "n_heads": 2}, "dropout": 0.1},
        "train": {"precision": "bf16", "average": {"over": "ema"}, "gradient_checkpointing": "block"},
    },
    "linear sgd wsd tail": {
        "model": {"attention": {"type": "linear", "n_heads": 2}, "norm": "rms_norm"},
        "optim": {"type": "sgd", "lr": 0.1},
        "schedule": {"type": "wsd"},
        "train": {"average": {"over": "tail", "fraction": 0.5}, "gradient_stats": True},
    },
    "packed documents moe dropout": {
        "model": {"feed_forward": {**_MOE, "balance": "loss"}, "dropout": 0.1, "position": "rotary"},
        "train": {"micro_batch": 1, "eval_every": 7},
        "data": {"packing": "documents"},
    },
    "hybrid ramps muon": {
        "model": {
            "blocks": {
                "near": {"attention": {"type": "local", "n_heads": 2, "window": 8}},
                "far": {"attention": {"type": "softmax", "n_heads": 2}},
            },
            "attention": None,
            "dropout": 0.1,
        },
        "optim": {"type": "muon", "lr": 0.01},
        "train": {"batch_ramp": {"start": 32, "steps": 20}, "length_ramp": {"start": 8, "steps": 15}, "z_loss": 1e-4},
    },
    "frozen embedding fp16 ema": {
        "model": {"dropout": 0.1, "tie_embeddings": False},
        "train": {"precision": "fp16", "freeze": ["token_embedding"], "average": {"over": "ema"}, "eval_every": 5},
    },
}
"""What is changed in `base` for each run."""


def base(text: Path) -> dict[str, Any]:
    """Return the settings that all runs share: small, with checkpoints often, and several epochs."""
    return {
        "model": {"d_model": 16, "n_layers": 2, "max_seq_len": 16, "attention": {"type": "softmax", "n_heads": 2}},
        "optim": {"type": "adamw", "lr": 0.01},
        "train": {
            "steps": STEPS,
            "tokens_per_step": 64,
            "precision": "fp32",
            "log_every": 1,
            "eval_every": 20,
            "sample_every": 25,
            "sample_tokens": 4,
            "checkpoint_every": 3,
            "trackers": [],
        },
        "data": {"source": str(text), "tokenizer": "char"},
    }


@dataclass
class Tally:
    """What became of one combination."""

    kills: int = 0
    """Times that a live process was killed."""
    inside_a_save: int = 0
    """Of these, how often a half-written checkpoint was left."""
    before_a_checkpoint: int = 0
    """Of these, how often nothing had been saved yet."""
    unreadable: int = 0
    """Of these, how often the folder could not be read afterwards."""
    exact: int = 0
    """Kills of runs that came to exactly what the run in peace came to."""
    runs: int = 0
    """Killed runs that were let finish."""
    different: list[str] = field(default_factory=list)
    """What was not equal, or could not be read."""


class Killer:
    """Starts, kills and continues the runs of one combination."""

    def __init__(self, settings: dict[str, Any], folder: Path, draw: random.Random) -> None:
        folder.mkdir(parents=True)
        self.folder, self.draw, self.tally = folder, draw, Tally()
        self.config = folder / "run.yaml"
        self.config.write_text(dump(settings), "utf-8")
        process, began = self.start("peace"), time.monotonic()
        self.await_life(process, folder / "peace")
        self.startup = time.monotonic() - began
        self.finish(process)
        self.training = time.monotonic() - began - self.startup

    def start(self, name: str) -> subprocess.Popen[str]:
        """Start the run, or go on with it where there is something to go on with."""
        run = self.folder / name
        going = (run / "config.yaml").exists()
        return subprocess.Popen(
            [sys.executable, "-m", "gptwright", "train", str(self.config), "--run", str(run), "--quiet"]
            + (["--resume"] if going else []),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> None:
        """Let a run come to its end."""
        errors = process.communicate(timeout=LIMIT)[1]
        if process.returncode:
            raise SystemExit(f"{self.config}: the run failed with {process.returncode}: {errors[-2000:]}")

    def await_life(self, process: subprocess.Popen[str], run: Path) -> None:
        """Wait until a run writes metrics, anew or because it goes on, or ends."""
        until, before = time.monotonic() + LIMIT, _touched(run / "metrics.jsonl")
        while process.poll() is None and _touched(run / "metrics.jsonl") == before and time.monotonic() < until:
            time.sleep(0.001)

    def kill_once(self, name: str) -> bool:
        """Start or continue a run and kill it at a random moment; False when it was done before that."""
        run = self.folder / name
        before = set((run / "checkpoints").glob(".*partial*"))
        starting = self.draw.random() < 0.2
        moment = self.draw.uniform(0, self.startup) if starting else self._moment()
        process = self.start(name)
        if not starting:
            self.await_life(process, run)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.tally.inside_a_save += bool(set((run / "checkpoints").glob(".*partial*")) - before)
            self.look(run)
            return True
        self.finish(process)
        return False

    def _moment(self) -> float:
        return math.exp(self.draw.uniform(math.log(self.training / 50), math.log(self.training)))

    def look(self, run: Path) -> None:
        """Look at what a kill has left."""
        self.tally.kills += 1
        if not (run / "config.yaml").exists():
            self.tally.before_a_checkpoint += 1
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a damaged checkpoint that was passed over is one too many
                gw.load(run)
        except gw.CheckpointError as error:
            if "holds no checkpoint yet" in str(error):
                self.tally.before_a_checkpoint += 1
            else:
                self.unreadable(run, error)
        except Exception as error:
            self.unreadable(run, error)

    def unreadable(self, run: Path, error: Exception) -> None:
        """Note that a folder could not be read."""
        self.tally.unreadable += 1
        self.tally.different.append(f"{run.name}: {type(error).__name__}: {error}")

    def rounds(self, kills: int, each: int) -> Iterator[Tally]:
        """Kill ``kills`` times, about ``each`` times a run, and compare each run in the end."""
        while self.tally.kills < kills:
            name, before = f"run-{self.tally.runs}", self.tally.kills
            wanted = min(self.draw.randint(1, 2 * each - 1), kills - before)
            while self.tally.kills - before < wanted and self.kill_once(name):
                yield self.tally
            self.finish(self.start(name))
            self.tally.runs += 1
            differ = differences(self.folder / "peace", self.folder / name)
            self.tally.different += [f"{name}: {what}" for what in differ]
            self.tally.exact += 0 if differ else self.tally.kills - before
            yield self.tally


def _touched(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def differences(first: Path, second: Path) -> list[str]:
    """Return what is not equal, bit for bit, in what two runs came to."""
    lacking = [run.name for run in (first, second) if not (run / "checkpoints" / f"step-{STEPS}").is_dir()]
    if lacking:
        return [f"{name} has no checkpoint of step {STEPS}" for name in lacking]
    one, other = _saved(first), _saved(second)
    found = [f"{name} is not equal" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return [*found, *_unlike(_curve(first), _curve(second))]


def _unlike(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> Iterator[str]:
    """Say how two curves differ."""
    if len(one) != len(other):
        yield f"the curve has {len(other)} rows instead of {len(one)}"
    rows = [(a, b) for a, b in zip(one, other, strict=False) if a != b]
    if rows:
        a, b = rows[0]
        keys = ", ".join(sorted(key for key in {*a, *b} if a.get(key) != b.get(key)))
        yield f"{len(rows)} rows of the curve are not equal, the first at step {a['step']} in {keys}"


def _saved(run: Path) -> dict[str, Any]:
    folder = run / "checkpoints" / f"step-{STEPS}"
    found: dict[str, Any] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))
    }
    state = json.loads((folder / "state.json").read_text("utf-8"))
    state = {f"state.json: {key}": value for key, value in _timeless(state).items()}
    return {**found, "optimizer.json": (folder / "optimizer.json").read_text("utf-8"), **state}


def _curve(run: Path) -> list[dict[str, Any]]:
    return [_timeless(json.loads(line)) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def _timeless(row: Any) -> Any:
    if isinstance(row, dict):
        return {key: _timeless(value) for key, value in row.items() if not any(word in key for word in CLOCK)}
    return row


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return ``below`` with what ``above`` changes; a part of another type replaces the whole part."""
    found = dict(below)
    for key, value in above.items():
        here = found.get(key)
        both = isinstance(here, dict) and isinstance(value, dict)
        found[key] = merged(here, value) if both and value.get("type") == here.get("type") else value  # pyright: ignore
    return found


def text() -> str:
    """Return documents of a small language, a few epochs' worth for a run."""
    draw, words = random.Random(0), WORDS.split()
    sentences = (" ".join(draw.choice(words) for _ in range(draw.randint(4, 14))) for _ in range(160))
    return "".join(json.dumps({"text": f"{sentence}.\n"}) + "\n" for sentence in sentences)


def main() -> None:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--each", type=int, default=8, help="kills of one run, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=COMBINATIONS, default=list(COMBINATIONS), metavar="NAME")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began, tallies = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as place:
        os.environ["GPTWRIGHT_CACHE"] = str(Path(place) / "cache")
        book = Path(place) / "book.jsonl"
        book.write_text(text(), "utf-8")
        for number, name in enumerate(options.only):
            share = options.kills // len(options.only) + (number < options.kills % len(options.only))
            settings = merged(base(book), COMBINATIONS[name])
            killer = Killer(settings, Path(place) / name.replace(" ", "-"), random.Random(f"{options.seed} {name}"))
            for tally in killer.rounds(share, options.each):
                print(f"\r{name}: {tally.kills} of {share} kills", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            tallies[name] = killer.tally
    show(tallies, time.monotonic() - began)
    if options.out:
        report = {"machine": describe_machine(), "seed": options.seed, "seconds": time.monotonic() - began}
        rows = {name: asdict(tally) for name, tally in tallies.items()}
        options.out.write_text(json.dumps({**report, "combinations": rows}, indent=1) + "\n", "utf-8")
    sys.exit(any(tally.different for tally in tallies.values()))


def show(tallies: dict[str, Tally], seconds: float) -> None:
    """Print the table."""
    line = "| {:<34} | {:>5} | {:>5} | {:>18} | {:>10} | {:>13} | {:>15} |"
    print(
        line.format(
            "combination", "runs", "kills", "exact continuations", "unreadable", "inside a save", "nothing saved"
        )
    )
    print(line.format("---", *["---:"] * 6))
    columns = ("runs", "kills", "exact", "unreadable", "inside_a_save", "before_a_checkpoint")
    for name, tally in tallies.items():
        print(line.format(name, *(getattr(tally, column) for column in columns)))
    print(line.format("all", *(sum(getattr(tally, column) for tally in tallies.values()) for column in columns)))
    print(f"\n{seconds / 60:.1f} minutes")
    for name, tally in tallies.items():
        for what in tally.different:
            print(f"NOT EXACT: {name}: {what}")


if __name__ == "__main__":
    main()
