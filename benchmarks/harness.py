"""Multiple-choice questions through lm-evaluation-harness: our engine against its `HFLM` on the same weights.

Each side gets the same requests and does all of the work, tokenizing included. `HFLM` runs at the batch size that was
fastest for it in a first pass over every set. Log-likelihoods are compared before any time is believed.
"""

import argparse
import json
import pydoc_data.topics
import random
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from common import describe_machine, spread
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import decoders, models, pre_tokenizers, trainers

from gptwright.evaluate.requests import harness_model
from gptwright.interop.importing import from_pretrained

SHAPES: dict[str, dict[str, int]] = {
    "124M": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "30M": {"vocab_size": 32000, "n_positions": 1024, "n_embd": 384, "n_layer": 6, "n_head": 6},
    "tiny": {"vocab_size": 4096, "n_positions": 1024, "n_embd": 48, "n_layer": 2, "n_head": 4},
}
"""GPT-2 shapes; `tiny` only shows that the script runs."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)

Pair = tuple[str, str]


def words() -> list[str]:
    """Return the words of Python's language reference."""
    return re.findall(r"\S+", " ".join(pydoc_data.topics.topics.values()))


def saved(shape: dict[str, int], folder: Path, text: list[str]) -> None:
    """Write a GPT-2 of random weights, with a tokenizer learnt from ``text``."""
    learnt = tokenizers.Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = min(16384, shape["vocab_size"])
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    learnt.train_from_iterator([" ".join(text)], trainer)
    end = "<|endoftext|>"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=learnt, bos_token=end, eos_token=end, pad_token=end
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)


def question_sets(text: list[str], count: int) -> dict[str, list[Pair]]:
    """Return pairs of context and continuation, as well-known tasks make them."""
    draw = random.Random(0)

    def some(least: int, most: int) -> str:
        start = draw.randrange(len(text) - most)
        return " ".join(text[start : start + draw.randint(least, most)])

    def choices(context: Callable[[], str], least: int, most: int) -> list[Pair]:
        return [(c, " " + some(least, most)) for c in (context() for _ in range(count)) for _ in range(4)]

    shots = "".join(f"Question: {some(12, 25)}\nAnswer: {some(1, 5)}\n\n" for _ in range(5))
    letters = [f"{shots}{some(20, 40)}\nA. a\nB. b\nC. c\nD. d\nAnswer:" for _ in range(count)]
    return {
        "no shots, long endings (HellaSwag)": choices(lambda: some(25, 60), 8, 20),
        "no shots, short answers (ARC)": choices(lambda: f"Question: {some(12, 25)}\nAnswer:", 1, 5),
        "5 shots, short answers (ARC)": choices(lambda: f"{shots}Question: {some(12, 25)}\nAnswer:", 1, 5),
        "5 shots, letters (MMLU)": [(context, f" {letter}") for context in letters for letter in "ABCD"],
    }


def requests(pairs: list[Pair]) -> list[Instance]:
    return [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=n) for n, pair in enumerate(pairs)]


def seconds(side: Any, pairs: list[Pair]) -> float:
    asked = requests(pairs)
    began = time.perf_counter()
    side.loglikelihood(asked, disable_tqdm=True)
    return time.perf_counter() - began


def best_batch(theirs: HFLM, pairs: list[Pair]) -> int:
    """Return the batch size at which the peer is fastest on these requests."""
    times = {}
    for size in BATCHES:
        theirs.batch_size_per_gpu = size
        times[size] = seconds(theirs, pairs)
        print(f"    HFLM, batch size {size:3d}: {times[size]:7.2f} s", flush=True)
    return min(times, key=lambda size: times[size])


def difference(ours: Any, theirs: HFLM, pairs: list[Pair]) -> float:
    """Return the largest difference of log-likelihoods; what is greedy must be the same."""
    found = [side.loglikelihood(requests(pairs), disable_tqdm=True) for side in (ours, theirs)]
    if [greedy for _, greedy in found[0]] != [greedy for _, greedy in found[1]]:
        raise SystemExit("the two sides do not agree on what greedy decoding writes")
    return max(abs(one[0] - other[0]) for one, other in zip(*found, strict=True))


def compare(shape: str, questions: int, rounds: int) -> dict[str, Any]:
    text = words()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the vocabulary is larger than the tokenizer, on purpose
        saved(SHAPES[shape], Path(folder), text)
        ours = harness_model(from_pretrained(folder))
        theirs = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=8)
    found: dict[str, Any] = {}
    for name, pairs in question_sets(text, questions).items():
        print(f"{shape}: {name}, {questions} questions, {len(pairs)} requests", flush=True)
        theirs.batch_size_per_gpu = best_batch(theirs, pairs)
        apart = difference(ours, theirs, pairs)  # which warms both sides up, too
        times: dict[str, list[float]] = {"HFLM": [], "gptwright": []}
        for _ in range(rounds):
            times["HFLM"].append(seconds(theirs, pairs))
            times["gptwright"].append(seconds(ours, pairs))
        spreads = {side: spread(values) for side, values in times.items()}
        ratio = spreads["HFLM"]["median"] / spreads["gptwright"]["median"]
        for side, each in spreads.items():
            print(f"  {side:10s} {each['median']:7.2f} s ({each['low']:.2f} to {each['high']:.2f})")
        print(f"  {ratio:.2f} times as fast; log-likelihoods at most {apart:.1e} apart", flush=True)
        found[name] = {"seconds": spreads, "ratio": ratio, "difference": apart, "batch": theirs.batch_size_per_gpu}
        if apart > 1e-4:
            raise SystemExit("the two sides do not compute the same figures")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that it runs")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["30M", "124M"])
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.shapes, args.questions, args.rounds = ["tiny"], 4, 1
    found = {shape: compare(shape, args.questions, args.rounds) for shape in args.shapes}
    if args.out:
        args.out.write_text(json.dumps({"machine": describe_machine(), "shapes": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
