"""Decoding one text greedily: ours against `transformers` generate, in GPT-2 shapes, the same weights on both sides.

Both sides continue the same prompts in turn in one process; seconds are those of the whole call, prompt included, over
the new tokens. In fp32 both must write the same ids first. Then our steps alone: the bytes that each has to read, the
part of this machine's read bandwidth that this makes, and the microseconds beyond it. Where the checkout can quantize,
int8 and int4 weights are set beside bf16.

    python benchmarks/decode.py [--quick] [--shapes 124M 10M] [--new-tokens 128] [--rounds 7] [--out FILE.json]
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from common import describe_machine
from decoding import DTYPES, SHAPES, Side, agreement, alternate, gpt2, prompts, table, writer
from transformers import GPT2Config, GPT2LMHeadModel

from gptwright.errors import GptwrightError
from gptwright.generate.bandwidth import read_bandwidth
from gptwright.generate.speed import decode_speed, prepared
from gptwright.model.gpt import GPT

try:
    from gptwright.model.quantized import quantize
except ImportError:  # an older checkout, beside which this one is measured
    quantize = None


def peer(model: GPT) -> GPT2LMHeadModel:
    """Return the transformers model with our weights."""
    config = model.config
    shape = {"vocab_size": config.vocab_size, "n_positions": config.max_seq_len, "n_embd": config.d_model}
    depth = {"n_layer": config.n_layers, "n_head": config.layer(0)[0].n_heads}  # pyright: ignore[reportAttributeAccessIssue]
    theirs = GPT2LMHeadModel(GPT2Config(**shape, **depth, bos_token_id=None, eos_token_id=None)).eval()
    state = {name: value.detach() for name, value in model.state_dict().items()}
    names = {
        "transformer.wte.weight": "token_embedding.weight",
        "transformer.wpe.weight": "position.weight",
        "transformer.ln_f.weight": "final_norm.weight",
        "transformer.ln_f.bias": "final_norm.bias",
        "lm_head.weight": "lm_head.weight",
    }
    found = {other: state[name] for other, name in names.items()}
    for layer in range(config.n_layers):
        found |= _layer(state, f"layers.{layer}.", f"transformer.h.{layer}.")
    theirs.load_state_dict(found)
    return theirs.to(next(model.parameters()).dtype)


def _layer(state: dict[str, torch.Tensor], ours: str, theirs: str) -> dict[str, torch.Tensor]:
    found = {}
    for kind in ("weight", "bias"):
        for other, name in (("ln_1", "attention_norm"), ("ln_2", "feed_forward_norm")):
            found[f"{theirs}{other}.{kind}"] = state[f"{ours}{name}.{kind}"]
        qkv = torch.cat([state[f"{ours}attention.{name}_proj.{kind}"] for name in "qkv"])
        matrices = {
            "attn.c_attn": qkv,
            "attn.c_proj": state[f"{ours}attention.o_proj.{kind}"],
            "mlp.c_fc": state[f"{ours}feed_forward.up_proj.{kind}"],
            "mlp.c_proj": state[f"{ours}feed_forward.down_proj.{kind}"],
        }
        found |= {f"{theirs}{name}.{kind}": value.t().contiguous() for name, value in matrices.items()}
    return found


def their_writer(model: GPT2LMHeadModel) -> Side:
    """Return their side: `generate` as it comes, told only to be greedy and how long to write."""

    def write(ids: list[int], new_tokens: int) -> list[int]:
        given = torch.tensor([ids])
        how = {"do_sample": False, "max_new_tokens": new_tokens, "pad_token_id": 0}
        with torch.no_grad():
            out = model.generate(given, attention_mask=torch.ones_like(given), **how)
        return out[0, len(ids) :].tolist()

    return write


def steps(models: dict[str, GPT], prompt_tokens: int, new_tokens: int, bandwidth: float) -> dict[str, Any]:
    """Measure our steps alone, model after model."""
    found = {}
    for name, model in models.items():
        how = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "rows": 1}
        speed = decode_speed(model, **how, bandwidth=bandwidth, clock=time.perf_counter)
        found[name] = speed.to_dict()
        print(
            f"  {name:28s} {1e3 * speed.step.median:8.3f} ms a step  {speed.bytes_per_step / 1e6:8.2f} MB  "
            f"{100 * speed.fraction:5.1f} % of {bandwidth / 1e9:.1f} GB/s  {1e6 * speed.overhead:8.1f} us above it",
            flush=True,
        )
    return found


def compare(shape: str, rounds: int, new_tokens: int, bandwidth: float) -> dict[str, Any]:
    """Measure one shape in both precisions."""
    model = gpt2(shape)
    given = prompts(SHAPES[shape]["vocab_size"], [16] * rounds)
    found: dict[str, Any] = {}
    for precision in DTYPES:
        ours = prepared(model, precision)  # pyright: ignore[reportArgumentType]
        sides = {"transformers": their_writer(peer(ours)), "gptwright": writer(ours)}
        print(f"{shape} {precision}")
        if precision == "fp32":
            first = [side(given[0], new_tokens) for side in sides.values()]
            same = agreement(*first)
            print(f"  greedy ids equal transformers': the first {same} of {new_tokens}")
            if same < new_tokens:
                raise SystemExit("the two sides do not compute the same model")
        times = alternate(sides, given, new_tokens)
        found[precision] = {"seconds_per_token": times, "ratios": table(times, "transformers")}
    half = prepared(model, "bf16")
    models = {"fp32": model, "bf16": half, **quantized(half)}
    found["steps"] = steps(models, 16, new_tokens, bandwidth)
    if len(models) > 2:
        times = alternate({name: writer(each) for name, each in models.items()}, given, new_tokens)
        found["quantized"] = {"seconds_per_token": times, "ratios": table(times, "bf16")}
    return found


def quantized(model: GPT) -> dict[str, GPT]:
    """Return the model with weights of 8 and 4 bits, where this checkout can do it."""
    found: dict[str, GPT] = {}
    for bits in (8, 4) if quantize else ():
        try:
            found[f"int{bits}"] = quantize(model, bits)
        except GptwrightError as error:
            print(f"  int{bits}: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that it runs")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["124M", "10M"])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.shapes, args.new_tokens, args.rounds = ["tiny"], 12, 2
    bandwidth = read_bandwidth(size=1 << 22 if args.quick else None)
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s")
    found = {shape: compare(shape, args.rounds, args.new_tokens, bandwidth) for shape in args.shapes}
    if args.out:
        result = {"machine": describe_machine(), "bandwidth": bandwidth, "shapes": found}
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
