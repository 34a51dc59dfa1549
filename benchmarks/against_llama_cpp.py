"""Decoding one text greedily: ours against llama.cpp, the same Llama-shaped weights of 110 M parameters on both sides.

Random weights of `llama-110m` are written as GGUF, in bf16 and in Q8_0, by our own export. llama.cpp runs in a
Python of its own that has `llama-cpp-python` and numpy; both sides take turns, prompt by prompt. Tokens a
second are those after the first token. How far greedy tokens agree is printed: with weights in bf16 on both sides they
part where two tokens are nearly equal.

    python -m venv llama && llama/bin/pip install llama-cpp-python numpy
    python benchmarks/against_llama_cpp.py --llama-python llama/bin/python [--quick] [--rounds 7] [--out FILE.json]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import describe_machine, spread
from decoding import agreement, greedy, prompts

from gptwright.generate.engine import Engine
from gptwright.generate.speed import prepared
from gptwright.interop.gguf.write import GgufType, write_gguf
from gptwright.interop.trained import Trained
from gptwright.model.gpt import GPT
from gptwright.train.settings import read_settings

try:
    from gptwright.model.quantized import quantize
except ImportError:  # an older checkout, beside which this one is measured
    quantize = None

HERE = Path(__file__).parent
TINY = ("model.d_model=64", "model.n_layers=2", "model.feed_forward.d_ff=160", "model.attention.n_heads=2")


class Child:
    """llama.cpp with a model."""

    def __init__(self, python: str, file: Path, context: int) -> None:
        numbers = [str(torch.get_num_threads()), str(context)]
        command = [python, "-P", str(HERE / "llama_cpp_child.py"), str(file), *numbers]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._read()["version"]

    def write(self, ids: list[int], new_tokens: int) -> tuple[list[int], float]:
        """Return new ids, and the seconds of those after the first."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ids": ids, "new_tokens": new_tokens}) + "\n")
        self.process.stdin.flush()
        found = self._read()
        return found["ids"], found["seconds"]

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("llama.cpp ended; its words are above")
        return json.loads(line)


def ours(model: GPT) -> Any:
    """Return a function that writes as `Child.write` does."""
    engine = Engine(model, rows=1, reuse="none")

    def write(ids: list[int], new_tokens: int) -> tuple[list[int], float]:
        ticket = engine.submit(greedy(ids, new_tokens))
        while not ticket.ids:
            engine.step()
        began = time.perf_counter()
        engine.run()
        return ticket.ids, time.perf_counter() - began

    return write


def compare(model: GPT, child: Child, new_tokens: int, rounds: int) -> dict[str, Any]:
    """Let both sides write in turn, after a warm-up."""
    sides = {"llama.cpp": child.write, "gptwright": ours(model)}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    same = []
    for round_, prompt in enumerate(prompts(model.config.require_vocab_size(), [16] * (rounds + 1))):
        texts = []
        for name, write in sides.items():
            ids, seconds = write(prompt, new_tokens)
            texts.append(ids)
            speeds[name] += [(new_tokens - 1) / seconds] if round_ else []
        same.append(agreement(*texts))
    spreads = {name: spread(values) for name, values in speeds.items()}
    for name, each in spreads.items():
        print(f"  {name:12s} {each['median']:8.1f} tokens/s ({each['low']:.1f} to {each['high']:.1f})")
    ratio = spreads["gptwright"]["median"] / spreads["llama.cpp"]["median"]
    print(f"  ratio {ratio:.2f}; greedy tokens agree for the first {same} of {new_tokens}", flush=True)
    return {"tokens_per_second": spreads, "ratio": ratio, "agreement": same}


def models(model: GPT) -> dict[GgufType, GPT]:
    """Return what stands beside each kind of GGUF."""
    half = prepared(model, "bf16")
    return {"bf16": half, **({"q8_0": quantize(half, 8)} if quantize else {})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama-cpp-python")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if subprocess.run([args.llama_python, "-P", "-c", "import llama_cpp"], capture_output=True).returncode:
        raise SystemExit(f"{args.llama_python} has no llama_cpp; name one that has with --llama-python")
    if args.quick:
        args.new_tokens, args.rounds = 8, 1
    torch.manual_seed(0)
    config = read_settings("llama-110m", ["model.init.std=0.05", *(TINY if args.quick else ())]).config.model
    model, found = GPT(config).eval(), {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, each in models(model).items():
            file = Path(folder) / f"{kind}.gguf"
            write_gguf(Trained.of_model(model), file, dtype=kind)
            child = Child(args.llama_python, file, config.max_seq_len)
            print(f"{kind}, llama-cpp-python {child.version}")
            found[kind] = compare(each, child, args.new_tokens, args.rounds)
            child.close()
    if args.out:
        args.out.write_text(json.dumps({"machine": describe_machine(), "kinds": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
