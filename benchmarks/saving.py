"""What a checkpoint costs training: steps of a 10M model with one save among them, and without.

Blocks of steps with and without a save at their beginning alternate in one process. Printed are the time for which
training stands still (the snapshot), the whole loss of time (the thread that writes also takes from the cores), and
both as a share of the time of 50 steps, the interval of the goal.

    python benchmarks/saving.py [--rounds 6] [--steps 8] [--out FILE.json]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from common import describe_machine, spread

import gptwright as gw
from gptwright.ops.memory import kept_memory
from gptwright.ops.precision import choose
from gptwright.train.contents import contents_of
from gptwright.train.saving import Saver
from gptwright.train.step import Stepper

INTERVAL, GOAL = 50, 0.05
SETTINGS = {
    "model": {
        "d_model": 384,
        "n_layers": 6,
        "max_seq_len": 256,
        "vocab_size": 65,
        "attention": {"type": "softmax", "n_heads": 6},
    },
    "train": {"tokens_per_step": 4096},
}


def block(stepper: Stepper, steps: int, save: Saver | None) -> tuple[float, float]:
    """Return the seconds of ``steps`` steps, and those of asking for the save before them."""
    ids = torch.randint(65, (16, 257))
    began = time.perf_counter()
    if save is not None:
        save.save(1, contents_of(stepper.model, stepper.optimizer, {}, {}), None)
    stalled = time.perf_counter() - began
    for step in range(steps):
        stepper.step(step, ids[:, :-1], ids[:, 1:])
    seconds = time.perf_counter() - began
    if save is not None:
        save.wait()
    return seconds, stalled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = gw.RunConfig.from_dict(SETTINGS)
    precision = choose("auto")
    model = gw.GPT(config.model)
    optimizer = config.build_optimizer(model, precision)
    stepper = Stepper(model, optimizer, config.build_schedule(), config.train, precision)
    with tempfile.TemporaryDirectory() as folder, precision.scope(), kept_memory():
        saver = Saver(Path(folder) / "checkpoints", keep=1)
        block(stepper, 3, saver)  # memory and kernels are found
        rows = []
        for _ in range(args.rounds):
            without, _ = block(stepper, args.steps, None)
            seconds, stalled = block(stepper, args.steps, saver)
            rows.append({"step": without / args.steps, "stalled": stalled, "lost": seconds - without})
            print({name: f"{1000 * value:.0f} ms" for name, value in rows[-1].items()}, flush=True)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    result = {name: spread([row[name] for row in rows]) for name in rows[0]}
    step, stalled, lost = (result[name]["median"] for name in ("step", "stalled", "lost"))
    whole = INTERVAL * step
    print(f"a checkpoint of {size / 1e6:.0f} MB every {INTERVAL} steps of {step:.3f} s")
    print(f"training stands still for {1000 * stalled:.0f} ms, {stalled / step:.1%} of one step")
    print(f"lost with the writing beside it: {1000 * lost:.0f} ms, {lost / whole:.2%} of all (goal {GOAL:.0%})")
    if args.out:
        args.out.write_text(
            json.dumps({"machine": describe_machine(), "bytes": size, "figures": result}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
