"""Memory of training foreseen without data is what real steps need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gptwright as gw
from gptwright.model import memory
from gptwright.model.freeze import choose_trained
from gptwright.model.memory import Ledger
from gptwright.ops.precision import Precision
from gptwright.train.memory import training_memory
from gptwright.train.step import Stepper, micro_batch_rows

ROOT = Path(__file__).parents[2]
LOCAL = {"attention": {"type": "local", "n_heads": 4, "window": 8}, "feed_forward": "glu"}
MOE = {"feed_forward": {"type": "moe", "n_experts": 4, "top_k": 2, "d_ff": 24, "n_shared": 1}}
CASES = {
    "fp32": {},
    "bf16": {"train.precision": "bf16"},
    "muon": {"optim": "muon"},
    "muon-bf16": {"optim": "muon", "train.precision": "bf16"},
    "accumulated": {"train.tokens_per_step": 4 * 2 * 64, "train.micro_batch": 2},
    "accumulated-bf16": {"train.tokens_per_step": 4 * 2 * 64, "train.micro_batch": 2, "train.precision": "bf16"},
    "frozen": {"train.freeze": ["token_embedding", "layers.[01]", "layers.3.attention"]},
    "frozen-bf16": {"train.freeze": ["*"], "train.unfreeze": ["feed_forward"], "train.precision": "bf16"},
    "checkpointed": {"train.gradient_checkpointing": "block"},
    "hybrid": {"model.blocks": {"near": LOCAL, "far": {}}, "model.pattern": ["near", "near", "far"]},
    "moe": {"model.feed_forward": MOE["feed_forward"]},
    "post-untied-dropout": {"model.wiring": "post", "model.tie_embeddings": False, "model.dropout": 0.1},
}


def run(changes) -> gw.RunConfig:
    data = {
        "model": {
            "vocab_size": 500,
            "d_model": 64,
            "n_layers": 6,
            "max_seq_len": 64,
            "attention": {"type": "softmax", "n_heads": 4},
        },
        "train": {"tokens_per_step": 4 * 64, "precision": "fp32"},
    }
    for key, value in changes.items():
        place = data
        for word in key.split(".")[:-1]:
            place = place[word]
        place[key.split(".")[-1]] = value
    return gw.RunConfig.from_dict(data)


def train_really(config: gw.RunConfig) -> tuple[Ledger, Stepper]:
    """Take three steps on real tensors, followed by the same ledger."""
    how = Precision(
        config.train.precision, {"fp32": torch.float32, "bf16": torch.bfloat16}[config.train.precision], "highest", ""
    )
    with Ledger() as ledger:
        model = gw.GPT(config.model)
        choose_trained(model, config.train.freeze, config.train.unfreeze)
        optimizer = config.build_optimizer(model, how)
        stepper = Stepper(model, optimizer, config.build_schedule(), config.train, how)
        ids = torch.randint(500, (config.rows_per_step, 64))
        for step in range(3):
            stepper.step(step, ids, ids)
        ledger.begin("end")
    return ledger, stepper


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_the_peak_is_that_of_real_steps(changes):
    config = run(changes)
    foreseen = training_memory(config, precision=config.train.precision)
    ledger, stepper = train_really(config)
    tolerance = 0.05 if "moe" in str(changes) else 0.01  # real routing is not balanced
    assert foreseen.peak == pytest.approx(max(segment.peak for segment in ledger.segments), rel=tolerance)
    state = [x for values in stepper.optimizer.state.values() for x in values.values() if torch.is_tensor(x)]
    assert foreseen.optimizer_state == sum(x.nbytes for x in state)
    trained = sum(p.numel() for p in stepper.model.parameters() if p.requires_grad)
    assert foreseen.gradients == 4 * trained
    assert foreseen.weights >= 4 * stepper.model.num_params()
    assert foreseen.working_copy == (2 * stepper.model.num_params() if config.train.precision == "bf16" else 0)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_layers_that_do_not_run_count_as_if_they_had(changes, monkeypatch):
    config = run({**changes, "model.n_layers": 9})
    foreseen = training_memory(config, precision=config.train.precision)
    monkeypatch.setattr(memory, "_representatives", lambda model: list(range(len(model.layers))))
    whole = training_memory(config, precision=config.train.precision)
    assert foreseen.peak == pytest.approx(whole.peak, rel=0.01)
    assert foreseen.activations == pytest.approx(whole.activations, rel=0.01)
    assert foreseen.peak_at == whole.peak_at


def test_checkpointing_and_freezing_and_smaller_micro_batches_take_less():
    plain = training_memory(run({"train.tokens_per_step": 16 * 64}))
    small = training_memory(run({"train.tokens_per_step": 16 * 64, "train.micro_batch": 4}))
    again = training_memory(run({"train.tokens_per_step": 16 * 64, "train.gradient_checkpointing": "block"}))
    frozen = training_memory(
        run({"train.tokens_per_step": 16 * 64, "train.freeze": ["layers.[0-4]", "lm_head", "position"]})
    )
    assert small.activations == pytest.approx(plain.activations / 4, rel=0.01)
    assert again.activations < plain.activations / 5
    assert frozen.activations < plain.activations / 3
    assert max(small.peak, again.peak, frozen.peak) < plain.peak


def test_rows_are_those_that_a_run_works_on_at_once():
    assert micro_batch_rows(run({}).train, 64) == 4
    assert micro_batch_rows(run({"train.micro_batch": 3}).train, 64) == 3
    assert micro_batch_rows(run({"train.tokens_per_step": 64 * 1000}).train, 64) == 256
    assert micro_batch_rows(run({}).train, 4096) == 1
    assert training_memory(run({}), micro_batch=7, context=32).micro_batch == 7


def test_fp16_is_followed_through_the_scaler():
    half = training_memory(run({}), precision="fp16")
    assert half.working_copy == training_memory(run({}), precision="bf16").working_copy > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc; runs on Linux")
@pytest.mark.parametrize("case", ["softmax-mlp-fp32-adamw", "local-glu-bf16-muon", "softmax-moe-fp32-adamw"])
def test_the_peak_of_a_process_is_foreseen_within_15_percent(case):
    """A process of its own trains for real; every tensor has its own pages there (see the script)."""
    command = [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "--quick", "--json", "--only", case]
    environment = {**os.environ, "PYTHONPATH": str(Path(gw.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    print(f"{case}: foreseen {found['peak']:,} bytes, measured {found['measured']:,}")
    assert found["measured"] > 200e6
    assert found["peak"] == pytest.approx(found["measured"], rel=0.15)
