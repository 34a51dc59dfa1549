"""Muon, Lion and SGD against AdamW at equal training time: full validation loss at the end, over seeds.

Every optimizer trains the same model on the same text with the same schedule, for the same number of seconds: a short
run first tells how long its steps take, and `train.steps` is set so that its schedule ends in time. The optimizers
take turns, each seed in another order. With ``--tune``, each learning rate is first chosen among three times less and
more, by runs of the same length with a seed of its own. Printed are the loss of each seed, the mean, and the paired
difference from AdamW with its 95 % interval (Student's t over the seeds). Validation and start-up are not counted.

    python benchmarks/optimizers.py tinyshakespeare.txt [--seconds 60] [--seeds 0 1 2] [--tune] [--out FILE.json]
"""

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import describe_machine

import gptwright as gw

CONFIG = Path(__file__).parent.parent / "configs" / "shakespeare-char.yaml"
SCHEDULE = {"type": "linear", "warmup_fraction": 0.03, "warmup_steps": None}
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"type": "adamw", "lr": 3e-3, "betas": [0.9, 0.95], "weight_decay": 0.1},
    "muon": {"type": "muon", "lr": 0.02, "adam_lr": 0.01},
    "lion": {"type": "lion", "lr": 6e-4, "weight_decay": 0.5},
    "sgd": {"type": "sgd", "lr": 0.3, "weight_decay": 1e-4},
}
"""The settings `optim` of each; all that are learning rates move together when they are tuned."""
RATES = ("lr", "adam_lr")
FACTORS = (1 / 3, 1.0, 3.0)
CALIBRATION_STEPS = 60
TUNING_SEED = 1000
STUDENT = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % quantile of Student's t by degrees of freedom, up to ten seeds."""


class Trial:
    """Runs of one text and one length."""

    def __init__(self, source: str, config: Path, seconds: float) -> None:
        self.source, self.config, self.seconds = source, config, seconds

    def train(self, optim: dict[str, Any], steps: int, seed: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Train in a folder that is gone afterwards; return the result and the lines of metrics."""
        settings = {
            "data.source": self.source,
            "optim": optim,
            "schedule": SCHEDULE,
            "train.steps": steps,
            "train.seed": seed,
            "train.log_every": 5,
            "train.eval_every": 0,
            "train.checkpoint_every": 0,
            "train.trackers": [],
            "train.sample_tokens": 0,
        }
        with tempfile.TemporaryDirectory() as folder:
            run = gw.train(self.config, settings, run=Path(folder) / "run", progress=False)
            lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        assert run.val_loss is not None, "a run ends with an evaluation"
        result = {"steps": steps, "seconds": run.train_seconds, "val_loss": run.val_loss}
        return result, [json.loads(line) for line in lines]

    def steps_in_time(self, optim: dict[str, Any]) -> int:
        """Return how many steps of ``optim`` fit into the seconds, by the second half of a short run."""
        _, rows = self.train(optim, CALIBRATION_STEPS, TUNING_SEED)
        timed = [(row["step"], row["train_seconds"]) for row in rows if "loss" in row]
        (first, began), (last, ended) = timed[len(timed) // 2], timed[-1]
        return max(1, round(self.seconds * (last - first) / (ended - began)))


def tuned(trial: Trial, name: str) -> dict[str, Any]:
    """Return the recipe of an optimizer with the best of three learning rates."""
    steps = trial.steps_in_time(RECIPES[name])
    found: dict[float, float] = {}
    for factor in FACTORS:
        result, _ = trial.train(scaled(RECIPES[name], factor), steps, TUNING_SEED)
        found[factor] = result["val_loss"] if math.isfinite(result["val_loss"]) else math.inf
        print(f"tuning {name:<6} learning rate x {factor:.2f}: {found[factor]:.4f}", flush=True)
    return scaled(RECIPES[name], min(found, key=found.__getitem__))


def scaled(recipe: dict[str, Any], factor: float) -> dict[str, Any]:
    """Return a recipe with all its learning rates times ``factor``."""
    return {key: value * factor if key in RATES else value for key, value in recipe.items()}


def interval(differences: list[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval."""
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return mean, math.nan
    return mean, STUDENT[count - 1] * statistics.stdev(differences) / math.sqrt(count)


def compare(trial: Trial, recipes: dict[str, dict[str, Any]], seeds: list[int]) -> dict[str, list[dict[str, float]]]:
    """Train every recipe with every seed, by turns, and return the results of each."""
    steps = {name: trial.steps_in_time(recipe) for name, recipe in recipes.items()}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in recipes}
    names = list(recipes)
    for number, seed in enumerate(seeds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            result, _ = trial.train(recipes[name], steps[name], seed)
            rows[name].append({"seed": seed, **result})
            print(
                f"seed {seed}  {name:<6} {result['steps']:6d} steps in {result['seconds']:6.1f} s: "
                f"validation loss {result['val_loss']:.4f}",
                flush=True,
            )
    return rows


def table(rows: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return the comparison as people read it."""
    losses = {name: [row["val_loss"] for row in found] for name, found in rows.items()}
    lines = [f"{'':<8}{'mean':>9}  {'each seed':<30}  minus adamw (95 % interval)"]
    for name, found in losses.items():
        each = " ".join(f"{loss:.4f}" for loss in found)
        mean, half = interval([a - b for a, b in zip(found, losses["adamw"], strict=True)])
        apart = "" if name == "adamw" else f"{mean:+.4f} +- {half:.4f}"
        lines.append(f"{name:<8}{statistics.mean(found):9.4f}  {each:<30}  {apart}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a text file, such as tinyshakespeare.txt")
    parser.add_argument("--config", type=Path, default=CONFIG, help="model and batch; its optimizer is not used")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=[name for name in RECIPES if name != "adamw"], nargs="+")
    parser.add_argument("--tune", action="store_true", help="choose each learning rate first")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if len(arguments.seeds) > len(STUDENT):
        parser.error(f"{len(arguments.seeds)} seeds were given, and intervals are known for up to {len(STUDENT)}")
    trial = Trial(arguments.source, arguments.config, arguments.seconds)
    names = ["adamw", *(arguments.only or [name for name in RECIPES if name != "adamw"])]
    recipes = {name: tuned(trial, name) if arguments.tune else RECIPES[name] for name in names}
    rows = compare(trial, recipes, arguments.seeds)
    print("\n".join(table(rows)))
    if arguments.out:
        result = {"machine": describe_machine(), "seconds": arguments.seconds, "recipes": recipes, "rows": rows}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
