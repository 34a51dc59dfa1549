"""Peak memory of a training step with a large vocabulary: ours against the same model in plain eager PyTorch.

The plain side is written out below: `nn.Linear` as the head, all logits at once, `F.cross_entropy`,
`torch.optim.AdamW`, fp32; it starts from our weights and must find our loss. Ours is the `Stepper` that every run uses,
in fp32 and in the precision that the machine chooses. Each side trains in a process of its own, which says when its
model and optimizer stand; the measuring process then reads its resident size, lets it take its steps, and reads the
highest resident size that the system saw. What a side needs is the difference. The sides run alternately, several
rounds. Beside it stands how far the chunked loss and its gradients are from the plain ones. Linux only.

    python benchmarks/loss_memory.py [--rounds 5] [--steps 2] [--out FILE.json]
"""

import argparse
import ctypes
import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import describe_machine, spread
from torch import Tensor, nn

from gptwright.model.gpt import GPT
from gptwright.ops.loss import chunked_loss
from gptwright.ops.memory import kept_memory
from gptwright.ops.precision import choose
from gptwright.train.config import RunConfig
from gptwright.train.step import Stepper

HEADS = 6
SHAPE = {"vocab_size": 50257, "d_model": 384, "n_layers": 6, "context": 1024, "batch": 4}
SMALL = {"vocab_size": 4099, "d_model": 48, "n_layers": 2, "context": 128, "batch": 2}
GOAL = 0.5


class PlainBlock(nn.Module):
    """Pre-norm attention and feed-forward, as in GPT-2, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = (nn.LayerNorm(width, bias=False) for _ in range(2))
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        self.attention = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in names})
        sizes = {"up_proj": (width, 4 * width), "down_proj": (4 * width, width)}
        self.feed_forward = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})

    def forward(self, x: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        q, k, v = (
            self.attention[name](normed).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attention["o_proj"](mixed)
        return x + self.feed_forward["down_proj"](F.gelu(self.feed_forward["up_proj"](self.feed_forward_norm(x))))


class PlainGPT(nn.Module):
    """The model of `run_config` in PyTorch's own modules; ids (B, T) to logits (B, T, V)."""

    def __init__(self, vocab: int, width: int, layers: int, context: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab, width)
        self.position = nn.Embedding(context, width)
        self.layers = nn.ModuleList(PlainBlock(width) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width, bias=False)
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.lm_head.weight = self.token_embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.position.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.final_norm(x))


def run_config(shape: dict[str, int], precision: str) -> RunConfig:
    """Return the settings of our side."""
    model = {key: shape[key] for key in ("vocab_size", "d_model", "n_layers")}
    model |= {"max_seq_len": shape["context"], "attention": {"type": "softmax", "n_heads": HEADS}}
    train = {"tokens_per_step": shape["batch"] * shape["context"], "precision": precision}
    return RunConfig.from_dict({"model": model, "optim": "adamw", "train": train})


def our_side(shape: dict[str, int], precision_name: str) -> Callable[[], Callable[[Tensor], float]]:
    """Build our model and optimizer; return what makes the step, working copy and all, once it is called."""
    config, precision = run_config(shape, precision_name), choose(precision_name)
    torch.manual_seed(0)
    model = GPT(config.model)
    optimizer = config.build_optimizer(model, precision)

    def begin() -> Callable[[Tensor], float]:
        stepper = Stepper(model, optimizer, config.build_schedule(), config.train, precision)

        def step(ids: Tensor) -> float:
            with precision.scope():
                return stepper.step(0, ids[:, :-1], ids[:, 1:]).loss

        return step

    return begin


def plain_side(shape: dict[str, int]) -> Callable[[], Callable[[Tensor], float]]:
    """Do what `our_side` does with the plain model; nothing keeps the logits alive longer than they are needed."""
    torch.manual_seed(0)
    ours = GPT(run_config(shape, "fp32").model)
    model = PlainGPT(shape["vocab_size"], shape["d_model"], shape["n_layers"], shape["context"])
    model.load_state_dict(ours.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def step(ids: Tensor) -> float:
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return lambda: step


SIDES: dict[str, Callable[[dict[str, int]], Callable[[], Callable[[Tensor], float]]]] = {
    "plain": plain_side,
    "fp32": lambda shape: our_side(shape, "fp32"),
    "auto": lambda shape: our_side(shape, "auto"),
}


def be_measured(side: str, shape: dict[str, int], steps: int) -> None:
    """Build, say so, wait for a line, train, print the losses, and wait for another line."""
    begin = SIDES[side](shape)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(shape["vocab_size"], (shape["batch"], shape["context"] + 1), generator=generator)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    print("built", flush=True)
    sys.stdin.readline()
    if side == "plain":
        step = begin()
        losses = [step(ids) for _ in range(steps)]
    else:
        with kept_memory():  # as in a run
            step = begin()
            losses = [step(ids) for _ in range(steps)]
    print(json.dumps(losses), flush=True)
    sys.stdin.readline()


def resident(process: int, field: str) -> int:
    """Return `VmRSS` or `VmHWM` of a process in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(side: str, shape: dict[str, int], steps: int) -> dict[str, Any]:
    """Train a side in a process of its own, and watch its memory from here."""
    command = [sys.executable, __file__, "--be", side, "--shape", json.dumps(shape), "--steps", str(steps)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin, "a pipe was asked for"
    assert child.stdout, "a pipe was asked for"
    if child.stdout.readline().strip() != "built":
        raise SystemExit(f"the side '{side}' ended with {child.wait()} before it was built")
    before = resident(child.pid, "VmRSS")
    Path(f"/proc/{child.pid}/clear_refs").write_text("5")  # the highest size begins anew
    child.stdin.write("go\n")
    child.stdin.flush()
    losses = json.loads(child.stdout.readline())
    peak = resident(child.pid, "VmHWM")
    child.communicate("end\n")
    return {"bytes": peak - before, "built": before, "losses": losses}


def difference(shape: dict[str, int]) -> dict[str, float]:
    """Return how far the chunked mean loss and its gradients are from plain fp32 ones (relative, in the norm)."""
    generator = torch.Generator().manual_seed(2)
    rows = shape["batch"] * shape["context"]
    hidden = torch.randn(rows, shape["d_model"], generator=generator)
    head = torch.randn(shape["vocab_size"], shape["d_model"], generator=generator) * 0.02
    targets = torch.randint(shape["vocab_size"], (rows,), generator=generator)
    found = _with_gradients(lambda h, w: chunked_loss(h, w, targets) / rows, hidden, head)
    plain = _with_gradients(lambda h, w: F.cross_entropy(F.linear(h, w), targets), hidden, head)
    names = ("loss", "gradient of the hidden states", "gradient of the head")
    return {
        name: float((one - other).norm() / other.norm()) for name, one, other in zip(names, found, plain, strict=True)
    }


def _with_gradients(function: Callable[[Tensor, Tensor], Tensor], *tensors: Tensor) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def summarise(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the median and spread of each side, and the shares of the plain one's median."""
    sides = {side: spread([row["bytes"] for row in found]) for side, found in rows.items()}
    shares = {side: sides[side]["median"] / sides["plain"]["median"] for side in sides if side != "plain"}
    return {"bytes": sides, "share": shares, "goal": GOAL}


def check_same_model(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Make sure that the plain side is our model: the first loss is the same."""
    first = {side: found[-1]["losses"][0] for side, found in rows.items()}
    if not math.isclose(first["plain"], first["fp32"], rel_tol=1e-5):
        raise SystemExit(f"the sides are not the same model: {first}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="from the second on, the optimizer's state is there")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--be", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be:
        be_measured(arguments.be, arguments.shape, arguments.steps)
        return
    shape = SMALL if arguments.small else SHAPE
    rows: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(arguments.rounds):
        for side, found in rows.items():
            found.append(measure(side, shape, arguments.steps))
            print(f"round {number + 1}  {side:<6} {found[-1]['bytes'] / 1e6:8.1f} MB", flush=True)
        check_same_model(rows)
    result, apart = summarise(rows), difference(shape)
    for side, share in result["share"].items():
        print(f"{side}: {share:.3f} of the plain side's memory (goal: at most {GOAL})")
    print("chunked against plain: " + ", ".join(f"{name} {value:.1e}" for name, value in apart.items()))
    if arguments.out:
        whole = {"machine": describe_machine(), "shape": shape, **result, "difference": apart, "rows": rows}
        arguments.out.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
