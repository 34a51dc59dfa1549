"""Sixteen prompts of different lengths: all through one engine, against one after another.

Both ways write the same greedy tokens with the same model, in turn in one process; prompts are read while others
write, so sequences join and leave. Tokens a second count new tokens over the whole time, prompts included.

    python benchmarks/batch.py [--quick] [--shapes 124M 10M] [--precision bf16] [--rounds 5] [--out FILE.json]
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

from common import describe_machine, spread
from decoding import SHAPES, gpt2, greedy, prompts

from gptwright.generate.engine import Engine, Request
from gptwright.generate.speed import prepared
from gptwright.model.gpt import GPT

ROWS = 16


def requests(model: GPT, longest: int, new_tokens: int, seed: int) -> list[Request]:
    """Return prompts and numbers of new tokens that all differ."""
    draw = random.Random(seed)
    lengths = [draw.randint(1, longest) for _ in range(ROWS)]
    ids = prompts(model.config.require_vocab_size(), lengths, seed)
    return [greedy(each, new_tokens) for each in ids]


def together(model: GPT) -> Any:
    """Return a function that writes all at once."""
    engine = Engine(model, rows=ROWS, reuse="none")

    def write(given: list[Request]) -> list[list[int]]:
        tickets = [engine.submit(request) for request in given]
        engine.run()
        return [ticket.ids for ticket in tickets]

    return write


def one_by_one(model: GPT) -> Any:
    """Return a function that writes one after another."""
    engine = Engine(model, rows=1, reuse="none")

    def write(given: list[Request]) -> list[list[int]]:
        found = []
        for request in given:
            ticket = engine.submit(request)
            engine.run()
            found.append(ticket.ids)
        return found

    return write


def compare(model: GPT, longest: int, new_tokens: int, rounds: int) -> dict[str, Any]:
    """Run both ways in turn and print what came of it."""
    ways = {"one at a time": one_by_one(model), f"{ROWS} at once": together(model)}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    equal = total = 0
    for round_ in range(rounds + 1):
        given, texts = requests(model, longest, new_tokens, round_), []
        for name, write in ways.items():
            began = time.perf_counter()
            texts.append(write(given))
            if round_:
                speeds[name].append(sum(map(len, texts[-1])) / (time.perf_counter() - began))
        equal += sum(a == b for a, b in zip(*texts, strict=True))
        total += len(given)
    spreads = {name: spread(values) for name, values in speeds.items()}
    slow, fast = (each["median"] for each in spreads.values())
    for name, each in spreads.items():
        print(f"  {name:16s} {each['median']:9.1f} tokens/s ({each['low']:.1f} to {each['high']:.1f})")
    print(f"  ratio {fast / slow:.2f}; {equal} of {total} texts are equal token for token", flush=True)
    return {"tokens_per_second": spreads, "ratio": fast / slow, "equal_texts": [equal, total]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that it runs")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["124M", "10M"])
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--longest", type=int, default=100, help="tokens of a prompt at most")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.shapes, args.longest, args.new_tokens, args.rounds = ["tiny"], 16, 8, 1
    found = {}
    for shape in args.shapes:
        for precision in args.precision:
            print(f"{shape} {precision}")
            found[f"{shape} {precision}"] = compare(
                prepared(gpt2(shape), precision), args.longest, args.new_tokens, args.rounds
            )
    if args.out:
        args.out.write_text(json.dumps({"machine": describe_machine(), "models": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
