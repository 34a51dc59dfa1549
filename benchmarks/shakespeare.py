"""Time to a validation loss on tiny Shakespeare: our recipes, the first of them against a classic one.

The classic side is ``configs/shakespeare-char-classic.yaml``, a published quick CPU recipe, trained in plain
eager fp32: torch's fused attention, unblocked, no low-precision copy of the weights, torch's own AdamW
and no speed path of ours. Ours is ``configs/shakespeare-char-quick.yaml`` as anybody runs it; both are trained to
their last step, one after the other, several rounds. Then ``-good`` and ``-best`` are trained once, and the time at
which each first evaluated at its target is printed. Every evaluation covers the whole validation split, untimed.

    python benchmarks/shakespeare.py tinyshakespeare.txt [--rounds 2] [--targets] [--out FILE.json]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from common import describe_machine, spread

import gptwright as gw
from gptwright.model.gpt import GPT
from gptwright.ops import attention as attention_op
from gptwright.train.data import RunData, with_vocabulary
from gptwright.train.settings import read_settings

CONFIGS = Path(__file__).parent.parent / "configs"
TARGET, SHARE, OWN_SHARE = 1.88, 1 / 6, 1 / 20
FURTHER = {"shakespeare-char-good": 1.55, "shakespeare-char-best": 1.48}
"""Recipes that are trained once, with the validation loss that each is to reach."""


def classic(source: str) -> dict[str, float]:
    """Train the classic recipe in a plain loop; return its time and final validation loss."""
    config = read_settings(CONFIGS / "shakespeare-char-classic.yaml", [f"data.source={source}"]).config
    data = RunData.open(config, torch.device("cpu"))
    config = data.config = with_vocabulary(config, data.tokenizer)
    torch.manual_seed(config.train.seed)
    model = GPT(config.model)
    settings = config.optim.to_dict()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"], betas=tuple(settings["betas"]))
    schedule = config.build_schedule()
    unblocked, attention_op.suits_blocks = attention_op.suits_blocks, lambda q: False
    began = time.perf_counter()
    try:
        for step in range(config.train.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings["lr"] * schedule.scale(step)
            inputs, targets, _ = data.batch(step * config.rows_per_step, config.rows_per_step)
            gw.loss(model(inputs), targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
    finally:
        attention_op.suits_blocks = unblocked
    return {"seconds": seconds, "val_loss": data.validate(model).loss}


def ours(source: str, name: str, target: float) -> dict[str, float]:
    """Train one of our recipes; return the time at which it first evaluated at ``target``, and its end."""
    quiet = {"data.source": source, "train.trackers": [], "train.sample_tokens": 0}
    with tempfile.TemporaryDirectory() as folder:
        run = gw.train(CONFIGS / f"{name}.yaml", quiet, run=Path(folder) / "run", progress=False)
        rows = [json.loads(line) for line in (Path(run.run) / "metrics.jsonl").read_text().splitlines()]
    reached = [row["train_seconds"] for row in rows if row.get("val_loss", target + 1) <= target]
    return {
        "target": target,
        "seconds_to_target": reached[0] if reached else float("inf"),
        "seconds": run.train_seconds,
        "val_loss": run.val_loss,
        "tokens": run.tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="tinyshakespeare.txt")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--targets", action="store_true", help="train the longer recipes too, half an hour")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {"classic": [], "shakespeare-char-quick": []}
    for _ in range(args.rounds):
        rows["classic"].append(classic(args.source))
        print(f"classic    {rows['classic'][-1]}", flush=True)
        rows["shakespeare-char-quick"].append(ours(args.source, "shakespeare-char-quick", TARGET))
        print(f"gptwright  {rows['shakespeare-char-quick'][-1]}", flush=True)
    classic_seconds = spread([row["seconds"] for row in rows["classic"]])["median"]
    our_seconds = spread([row["seconds_to_target"] for row in rows["shakespeare-char-quick"]])["median"]
    share = our_seconds / classic_seconds
    print(
        f"classic: {classic_seconds:.1f} s for all its steps; ours to {TARGET}: {our_seconds:.1f} s; share {share:.3f} "
        f"(goal {SHARE:.3f}, our own {OWN_SHARE:.3f})"
    )
    for name, target in FURTHER.items() if args.targets else ():
        rows[name] = [ours(args.source, name, target)]
        print(f"{name}  {rows[name][-1]}", flush=True)
    if args.out:
        result = {"machine": describe_machine(), "target": TARGET, "rows": rows, "share": share}
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
