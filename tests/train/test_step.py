"""One optimizer step: what it averages over, clips, skips and reports."""

import pytest
import torch

import gptwright as gw
from gptwright.ops.precision import choose
from gptwright.optim.schedule.constant import Constant
from gptwright.train.config import TrainConfig
from gptwright.train.step import Stepper

VOCAB = 11


def model_of(**changes) -> gw.GPT:
    torch.manual_seed(0)
    attention = {"type": "softmax", "n_heads": 2}
    base = {"vocab_size": VOCAB, "d_model": 8, "n_layers": 2, "max_seq_len": 6, "attention": attention}
    return gw.GPT(gw.ModelConfig.from_dict({**base, "init": {"std": 0.3}, **changes}))


def stepper_of(model: gw.GPT, precision: str = "fp32", **train) -> Stepper:
    """Plain gradient descent at rate 1: a step moves the weights by the gradient."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    schedule = Constant(Constant.Config(warmup_steps=0), 10)
    return Stepper(model, optimizer, schedule, TrainConfig(**{"clip": 0.0, **train}), choose(precision))


def batch(rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(VOCAB, (rows, 7), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:].clone()


def moved(model: gw.GPT, stepper: Stepper, inputs, targets) -> torch.Tensor:
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    stepper.step(0, inputs, targets)
    return before - torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient(model: gw.GPT, inputs, targets, **how) -> torch.Tensor:
    model.zero_grad()
    gw.loss(model(inputs), targets, **how).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3, 9])
def test_a_step_follows_the_mean_over_all_real_targets(micro_batch):
    """Also where rows have different numbers of them: each token weighs the same, not each row."""
    inputs, targets = batch()
    targets[0, :5] = targets[1, 2:] = -100
    targets[3] = -100
    expected = gradient(model_of(), inputs, targets)
    model = model_of()
    found = moved(model, stepper_of(model, micro_batch=micro_batch), inputs, targets)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_loss_reported_is_that_before_the_step():
    model, (inputs, targets) = model_of(), batch()
    expected = gw.loss(model(inputs), targets).item()
    result = stepper_of(model, micro_batch=3).step(0, inputs, targets)
    assert result.loss == pytest.approx(expected, rel=1e-6)
    assert not result.skipped


def test_nothing_to_learn_moves_nothing():
    model, (inputs, targets) = model_of(), batch()
    result = stepper_of(model).step(0, inputs, torch.full_like(targets, -100))
    assert (result.loss, result.grad_norm, result.skipped) == (0, 0, False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gradient_is_clipped_by_its_norm(precision):
    inputs, targets = batch()
    free, clipped = model_of(), model_of()
    whole = moved(free, stepper_of(free, precision), inputs, targets)
    stepper = stepper_of(clipped, precision, clip=0.1)
    part = moved(clipped, stepper, inputs, targets)
    assert whole.norm() > 0.2
    assert part.norm().item() == pytest.approx(0.1, rel=1e-3)
    torch.testing.assert_close(part / part.norm(), whole / whole.norm(), rtol=1e-3, atol=1e-5)


def test_the_norm_reported_is_that_before_clipping():
    inputs, targets = batch()
    norm = gradient(model_of(), inputs, targets).norm().item()
    assert stepper_of(model_of(), clip=0.1).step(0, inputs, targets).grad_norm == pytest.approx(norm, rel=1e-5)


def test_label_smoothing():
    inputs, targets = batch()
    expected = gradient(model_of(), inputs, targets, label_smoothing=0.2)
    model = model_of()
    found = moved(model, stepper_of(model, label_smoothing=0.2, micro_batch=3), inputs, targets)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_moves_fp32_masters_in_about_the_same_direction(precision):
    inputs, targets = batch()
    expected = gradient(model_of(), inputs, targets)
    model = model_of()
    found = moved(model, stepper_of(model, precision, micro_batch=3), inputs, targets)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99
    assert found.norm().item() == pytest.approx(expected.norm().item(), rel=0.05)


def test_small_steps_are_not_lost_in_bf16():
    """A change below the resolution of bf16 stays in the masters, where it adds up."""
    model, (inputs, targets) = model_of(), batch()
    stepper = stepper_of(model, "bf16")
    stepper.optimizer.param_groups[0]["initial_lr"] = 1e-5
    before = model.lm_head.weight.detach().clone()
    for step in range(3):
        stepper.step(step, inputs, targets)
    change = model.lm_head.weight.detach() - before
    assert change.abs().max() > 0
    assert not torch.equal(before + change.bfloat16(), before.bfloat16())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gradient_that_is_not_finite_is_skipped_and_forgotten(precision):
    model, (inputs, targets) = model_of(tie_embeddings=False), batch()
    stepper = stepper_of(model, precision)
    poisoned, clean = inputs.clone(), inputs.clone()
    poisoned[0, 0], clean[clean == 7] = 7, 8
    with torch.no_grad():
        model.token_embedding.weight[7] = torch.inf  # only a batch that holds token 7 comes to harm
    before = [p.detach().clone() for p in model.parameters()]
    first = stepper.step(0, poisoned, targets)
    assert first.skipped
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    scale = stepper.scaler.get_scale()
    second = stepper.step(1, clean, targets)
    assert not second.skipped
    assert not torch.equal(model.layers[0].attention.o_proj.weight, before[3])
    assert scale == (2**15 if precision == "fp16" else 1)


def test_balancing_is_part_of_what_is_minimised_and_not_of_the_loss_reported():
    moe = {"type": "moe", "n_experts": 3, "top_k": 2, "d_ff": 8}
    inputs, targets = batch()
    results, moves = [], []
    for weight in (0.0, 1.0):
        model = model_of(feed_forward={**moe, "balance_weight": weight})
        stepper = stepper_of(model)
        before = model.layers[0].feed_forward.router.weight.detach().clone()
        results.append(stepper.step(0, inputs, targets).loss)
        moves.append(model.layers[0].feed_forward.router.weight.detach() - before)
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert (moves[0] - moves[1]).norm() > 1e-4


def test_the_schedule_sets_the_rate():
    model, (inputs, targets) = model_of(), batch()
    stepper = stepper_of(model)
    stepper.schedule = Constant(Constant.Config(warmup_steps=3), 10)
    assert [stepper.step(n, inputs, targets).lr for n in range(4)] == [0.25, 0.5, 0.75, 1.0]
