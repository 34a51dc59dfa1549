"""Train, generate and evaluate from Python: the command line's verbs, as functions.

Run it: python examples/train_from_python.py [STEPS]
"""

import sys
import tempfile
from pathlib import Path

import gptwright as gw

SETTINGS = {
    "model": {
        "d_model": 64,
        "n_layers": 2,
        "max_seq_len": 64,
        "attention": {"type": "softmax", "n_heads": 4},
        "norm": "rms_norm",
        "position": "rotary",
    },
    "optim": {"type": "muon", "lr": 0.02},
    "train": {"tokens_per_step": 1024, "eval_every": 0},
    "data": {"source": "python-docs", "tokenizer": "byte"},
}


def main(steps: int = 100) -> None:
    """Train a small model on the documentation that ships with Python, and use it."""
    with tempfile.TemporaryDirectory() as folder:
        result = gw.train(SETTINGS, {"train.steps": steps}, run=Path(folder) / "run")
        print(f"{result.tokens:,} tokens, {result.val_bits_per_byte:.2f} bits a byte")

        model = gw.load(result.run)
        print(gw.generate(model, "The ", max_new_tokens=60, temperature=0.8, seed=1))
        score = gw.evaluate(model)
        print(f"{score.loss:.2f} nats a token over {score.tokens:,} tokens")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
