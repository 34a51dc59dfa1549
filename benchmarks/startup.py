"""From pressing Enter to the first optimizer step of a 10M model, on prepared data.

A real ``python -m gptwright train`` process is started; the clock runs from before it is started until its first
training line is in metrics.jsonl. The first round, which may prepare data and read cold files, is shown and not
counted. Beside it stands what Python needs to import torch alone.

    python benchmarks/startup.py text.txt [--rounds 5] [--out FILE.json]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import describe_machine, spread

GOAL = 4.0
SETTINGS = """
model:
  {{d_model: 384, n_layers: 6, max_seq_len: 256, attention: {{type: softmax, n_heads: 6}}, norm: rms_norm}}
optim: {{type: adamw, lr: 1e-3}}
train: {{steps: 100, tokens_per_step: 4096, eval_every: 0, checkpoint_every: 0, log_every: 1}}
data: {{source: {source}, tokenizer: char}}
"""


def start(config: Path, run: Path) -> dict[str, float]:
    """Return the seconds until the first training line, and those that the step itself took."""
    metrics = run / "metrics.jsonl"
    began = time.perf_counter()
    command = [sys.executable, "-m", "gptwright", "train", str(config), "--run", str(run), "--quiet"]
    process = subprocess.Popen(command)
    try:
        while not (metrics.exists() and metrics.read_text().endswith("\n")):
            if process.poll() is not None:
                raise SystemExit("the run ended before its first step")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
    return {"seconds": seconds, "step": json.loads(metrics.read_text().splitlines()[0])["train_seconds"]}


def importing() -> float:
    """Return the seconds of a process that imports torch and ends."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, list[float]] = {"seconds": [], "step": [], "import torch": []}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "ten.yaml"
        config.write_text(SETTINGS.format(source=args.source.resolve()))
        for number in range(args.rounds + 1):
            row = {**start(config, Path(folder) / f"run-{number}"), "import torch": importing()}
            print(
                "cold" if number == 0 else f"{number:4}",
                {name: round(value, 2) for name, value in row.items()},
                flush=True,
            )
            for name, value in row.items() if number else ():
                found[name].append(value)
    result = {name: spread(values) for name, values in found.items()}
    whole, step = result["seconds"]["median"], result["step"]["median"]
    print(f"first step done after {whole:.2f} s (goal {GOAL:.0f}); the step itself took {step:.2f} s")
    if args.out:
        args.out.write_text(json.dumps({"machine": describe_machine(), "figures": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
