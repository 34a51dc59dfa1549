"""Training a mixture of experts: loads are counted once a step, biases move with it, and checkpoints hold them."""

import pytest
import torch

import gptwright as gw
from gptwright.ops.precision import choose
from gptwright.optim.schedule.constant import Constant
from gptwright.train.config import TrainConfig
from gptwright.train.step import Stepper
from gptwright.train.working import WorkingCopy

from .. import tiny
from ..tiny import assert_same_runs, curve, train, train_until

BIAS = {"type": "moe", "n_experts": 4, "top_k": 2, "d_ff": 8, "balance": "bias", "balance_rate": 0.05}
SIGMOID = {**BIAS, "router": "sigmoid", "z_weight": 0.001, "n_shared": 1, "scale": 2}
VOCAB = 11


def model_of(feed_forward=BIAS, **changes) -> gw.GPT:
    torch.manual_seed(0)
    attention = {"type": "softmax", "n_heads": 2}
    base = {"vocab_size": VOCAB, "d_model": 8, "n_layers": 2, "max_seq_len": 16, "attention": attention}
    return gw.GPT(gw.ModelConfig.from_dict({**base, "feed_forward": feed_forward, "init": {"std": 0.3}, **changes}))


def stepper_of(model: gw.GPT, precision: str = "fp32", lr: float = 0.1, **settings) -> Stepper:
    schedule = Constant(Constant.Config(warmup_steps=0), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer.param_groups[0]["initial_lr"] = lr
    return Stepper(model, optimizer, schedule, TrainConfig(**settings), choose(precision))


def batch(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(VOCAB, (rows, 17), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:].clone()


def biases(model: gw.GPT) -> torch.Tensor:
    return torch.stack([layer.feed_forward.expert_bias for layer in model.layers])


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_the_working_copy_shares_what_stays_in_fp32(precision):
    model = model_of()
    twin = WorkingCopy(model, choose(precision).compute_dtype).model
    assert (twin is model) == (precision == "fp32")
    for mine, theirs in zip(model.layers, twin.layers, strict=True):
        assert theirs.feed_forward.expert_bias is mine.feed_forward.expert_bias
        assert theirs.feed_forward.load is mine.feed_forward.load
        assert theirs.feed_forward.load.dtype == torch.float32


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"micro_batch": 1},
        {"micro_batch": 4},
        {"gradient_checkpointing": "block"},
        {"gradient_checkpointing": "selective"},
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_counts_each_token_once_and_moves_biases_once(precision, how):
    inputs, targets = batch()
    expected = model_of()
    twin = WorkingCopy(expected, choose(precision).compute_dtype).model.train()
    with choose(precision).scope():
        twin(inputs)
        loads = torch.stack([layer.feed_forward.load for layer in twin.layers])
        assert loads.sum(1).tolist() == [2 * inputs.numel()] * 2
        model = model_of()
        result = stepper_of(model, precision, lr=1e-9, **how).step(0, inputs, targets)
    peaks = loads.amax(1) / loads.mean(1)
    assert result.figures == {
        "expert_load": pytest.approx(float(peaks.max())),
        "expert_load_mean": pytest.approx(float(peaks.mean())),
    }
    over = (1 - loads / loads.mean(1, keepdim=True)).clamp(-1, 1)
    torch.testing.assert_close(biases(model), 0.05 * (over - over.mean(1, keepdim=True)))
    assert not any(layer.feed_forward.load.any() for layer in model.layers)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_skipped_step_moves_no_bias_and_its_loads_are_forgotten(precision):
    model, (inputs, targets) = model_of(tie_embeddings=False), batch()
    stepper = stepper_of(model, precision)
    poisoned, clean = inputs.clone(), inputs.clone()
    poisoned[0, 0], clean[clean == 7] = 7, 8
    with torch.no_grad():
        model.token_embedding.weight[7] = torch.inf
    model.layers[0].feed_forward.expert_bias.copy_(torch.tensor([0.1, 0.2, -0.3, 0.0]))
    before = biases(model).clone()
    assert stepper.step(0, poisoned, targets).skipped
    assert torch.equal(biases(model), before)
    assert not any(layer.feed_forward.load.any() for layer in model.layers)
    assert not stepper.step(1, clean, targets).skipped
    assert not torch.equal(biases(model), before)


def test_a_model_without_experts_has_no_figures():
    inputs, targets = batch()
    assert stepper_of(model_of({"type": "mlp", "d_ff": 8})).step(0, inputs, targets).figures == {}


def test_loads_are_logged(settings, tmp_path):
    train(settings({"model.feed_forward": BIAS}), tmp_path / "moe")
    rows = curve(tmp_path / "moe").values()
    assert all(4 >= row["expert_load"] >= row["expert_load_mean"] >= 1 for row in rows)
    train(settings(), tmp_path / "dense")
    assert not any("expert_load" in row for row in curve(tmp_path / "dense").values())


CASES = {
    "fp32": {"model.feed_forward": BIAS},
    "bf16": {"model.feed_forward": SIGMOID, "train.precision": "bf16", "train.micro_batch": 2},
    "fp16": {"model.feed_forward": SIGMOID, "train.precision": "fp16"},
    "computed again": {"model.feed_forward": SIGMOID, "train.gradient_checkpointing": "block"},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_interrupted_is_uninterrupted(settings, tmp_path, changes):
    config = settings({**changes, "train.checkpoint_every": 5, "model.init": {"std": 0.3}})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    train_until(3, config, cut)
    train_until(8, None, cut, resume=True)
    train(None, cut, resume=True)
    assert_same_runs(whole, cut)
    first, last = (gw.load(whole / "checkpoints" / f"step-{step}") for step in (10, 12))
    assert biases(last).abs().amax(1).gt(0.005).all()
    assert not torch.equal(biases(first), biases(last))


def test_looking_moves_no_bias(settings, tmp_path):
    quiet, busy = tmp_path / "quiet", tmp_path / "busy"
    config = {"model.feed_forward": BIAS, "train.precision": "bf16"}
    train(settings({**config, "train.log_every": 12, "train.checkpoint_every": 0}), quiet)
    train(settings({**config, "train.eval_every": 1, "train.sample_every": 1, "train.checkpoint_every": 1}), busy)
    assert tiny.contents(quiet, 12) == tiny.contents(busy, 12)


def test_a_loaded_model_chooses_and_writes_with_its_biases(settings, tmp_path):
    train(settings({"model.feed_forward": BIAS}), tmp_path / "r")
    model = gw.load(tmp_path / "r")
    ids = torch.randint(0, 5, (1, 12))
    before, written = model(ids), model.generate(ids, 4, do_sample=False)
    assert torch.equal(gw.load(tmp_path / "r")(ids), before)
    for layer in model.layers:
        layer.feed_forward.expert_bias.copy_(torch.tensor([0.0, 9.0, 9.0, 0.0]))
    assert not torch.allclose(model(ids), before)
    states, steps = model.init_states(batch=1, length=16), []
    other = model.generate(ids, 4, do_sample=False)
    steps = [model(other[:, a:b], states=states) for a, b in ((0, 12), (12, 13), (13, 16))]
    torch.testing.assert_close(torch.cat(steps, 1), model(other), rtol=1e-4, atol=1e-5)
    assert written.shape == other.shape
