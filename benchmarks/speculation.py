"""Guessing ahead by prompt lookup, against plain decoding: on text that copies from its prompt, and on noise.

Random weights do not copy, so what the model writes is laid down: a constraint leaves it one token at a time. The
copying text is made of passages of its prompt with new words between them; the noise is drawn at random, nothing in it
comes twice but by chance. The work a token is that of real text, on both sides. `--run` instead continues a real prompt
with a real model, greedily and drawn.

    python benchmarks/speculation.py [--quick] [--shapes 124M 10M] [--precision bf16] [--rounds 5] [--out FILE.json]
    python benchmarks/speculation.py --run runs/NAME --prompt-file FILE
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from common import describe_machine, spread
from decoding import SHAPES, gpt2

import gptwright as gw
from gptwright.generate.engine import Engine, Request
from gptwright.generate.sampling import Sampling
from gptwright.generate.speculative import Speculation, speculation
from gptwright.generate.speed import prepared
from gptwright.model.gpt import GPT

PASSAGE = (12, 40)
"""Tokens of a passage that is copied, from and to."""
NEW_WORDS = (1, 4)
"""Tokens between two of them."""


class LaidDown:
    """Leaves a text one token at a time."""

    def __init__(self, ids: list[int], vocab: int) -> None:
        self._ids, self._place, self._vocab = ids, 0, vocab

    @property
    def finished(self) -> bool:
        """Whether all of it is written."""
        return self._place >= len(self._ids)

    def mask(self) -> torch.Tensor:
        """Return what may come next (V,)."""
        allowed = torch.zeros(self._vocab, dtype=torch.bool)
        allowed[self._ids[self._place]] = True
        return allowed

    def take(self, token: int) -> None:
        """Go on to the next."""
        del token
        self._place += 1


def copying(prompt: list[int], vocab: int, length: int, draw: random.Random) -> list[int]:
    """Return passages of ``prompt`` with a few new tokens between them."""
    found: list[int] = []
    while len(found) < length:
        size = min(draw.randint(*PASSAGE), len(prompt))
        start = draw.randrange(len(prompt) - size + 1)
        found += prompt[start : start + size] + [draw.randrange(vocab) for _ in range(draw.randint(*NEW_WORDS))]
    return found[:length]


def laid_down(kind: str, vocab: int, prompt_tokens: int, new_tokens: int, seed: int) -> list[Request]:
    """Return the same request twice, for two sides."""
    draw = random.Random(seed)
    prompt = [draw.randrange(vocab) for _ in range(prompt_tokens)]
    noise = [draw.randrange(vocab) for _ in range(new_tokens)]
    text = noise if kind == "noise" else copying(prompt, vocab, new_tokens, draw)
    sampling = Sampling(temperature=0, max_new_tokens=new_tokens)
    return [Request(prompt, sampling, constraint=LaidDown(text, vocab)) for _ in range(2)]


def seconds(engine: Engine, request: Request) -> tuple[float, list[int]]:
    """Return the time from the first token to the last, and what was written."""
    ticket = engine.submit(request)
    while not ticket.ids:
        engine.step()
    began = time.perf_counter()
    engine.run()
    return time.perf_counter() - began, ticket.ids


def compare(model: GPT, pairs: list[list[Request]]) -> dict[str, Any]:
    """Let both sides write each pair in turn, after a warm-up."""
    guesses: Speculation = speculation(model, "lookup")
    sides = {"plain": Engine(model, rows=1, reuse="none")}
    sides["lookup"] = Engine(model, rows=1, reuse="none", speculation=guesses)
    times: dict[str, list[float]] = {name: [] for name in sides}
    ratios = []
    for place, pair in enumerate(pairs):
        texts = []
        for (name, engine), request in zip(sides.items(), pair, strict=True):
            taken, ids = seconds(engine, request)
            times[name] += [taken / max(1, len(ids) - 1)] if place else []
            texts.append(ids)
        if place:
            ratios.append(times["plain"][-1] / times["lookup"][-1])
        if texts[0] != texts[1]:
            print("  the texts differ, which rounding alone should do, and seldom")
    found = spread(ratios)
    plain, lookup = (spread(values)["median"] for values in times.values())
    print(
        f"  plain {1e3 * plain:.3f} ms a token, lookup {1e3 * lookup:.3f}; ratio {found['median']:.2f} "
        f"({found['low']:.2f} to {found['high']:.2f}); {guesses.accepted} of {guesses.guessed} guesses right",
        flush=True,
    )
    counts = {"guessed": guesses.guessed, "accepted": guesses.accepted, "steps": guesses.steps}
    return {"seconds_per_token": {"plain": plain, "lookup": lookup}, "ratio": found, **counts}


def real(run: str, file: Path, precision: str, new_tokens: int, rounds: int) -> dict[str, Any]:
    """Measure a trained model on a real prompt."""
    model = prepared(gw.load(run), precision)  # pyright: ignore[reportArgumentType]
    ids = model.tokenizer.encode(file.read_text(encoding="utf-8")).tolist()
    found = {}
    for temperature in (0.0, 0.8):
        how = Sampling(temperature=temperature, max_new_tokens=new_tokens, ignore_end=True)
        print(f"{run}, temperature {temperature}")
        found[str(temperature)] = compare(model, [[Request(ids, how, seed=n)] * 2 for n in range(rounds + 1)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that it runs")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["124M", "10M"])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--run", help="a trained model, in place of random weights")
    parser.add_argument("--prompt-file", type=Path, help="what it continues")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.run and not args.prompt_file:
        parser.error("--run needs a --prompt-file")
    if args.quick:
        args.shapes, args.rounds = ["tiny"], 1
    found: dict[str, Any] = {}
    if args.run:
        found[args.run] = real(args.run, args.prompt_file, args.precision, 128, args.rounds)
    for shape in () if args.run else args.shapes:
        model = prepared(gpt2(shape), args.precision)
        vocab, room = SHAPES[shape]["vocab_size"], min(SHAPES[shape]["max_seq_len"], 512)
        for kind in ("copying", "noise"):
            print(f"{shape} {args.precision}, {kind}")
            pairs = [laid_down(kind, vocab, room // 3, room // 2, seed) for seed in range(args.rounds + 1)]
            found[f"{shape} {kind}"] = compare(model, pairs)
    if args.out:
        args.out.write_text(json.dumps({"machine": describe_machine(), "found": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
