"""Averaged weights: the numbers, their place in evaluation, and what they leave untouched."""

from contextlib import suppress

import pytest
import torch
from torch import nn

import gptwright as gw
from gptwright.train.average import AveragedWeights
from gptwright.train.config import Average

from .. import tiny
from ..tiny import assert_same_runs, train, train_until


def moving() -> tuple[nn.Linear, list[torch.Tensor]]:
    torch.manual_seed(0)
    return nn.Linear(3, 2, bias=False), [torch.randn(2, 3) for _ in range(10)]


def follow(average: AveragedWeights, model: nn.Linear, values: list[torch.Tensor]) -> None:
    for step, value in enumerate(values, start=1):
        model.weight.data.copy_(value)
        average.update(step)


def test_ema_follows_its_formula():
    model, values = moving()
    average = AveragedWeights(Average(over="ema", decay=0.6), model, 10)
    follow(average, model, values)
    expected = values[0]
    for step, value in enumerate(values[1:], start=2):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average.tensors()["weight"], expected)


def test_tail_is_the_mean_of_the_last_steps():
    model, values = moving()
    average = AveragedWeights(Average(over="tail", fraction=0.3), model, 10)
    follow(average, model, values[:7])
    assert average.tensors() == {}
    for step, value in enumerate(values[7:], start=8):
        model.weight.data.copy_(value)
        average.update(step)
    torch.testing.assert_close(average.tensors()["weight"], torch.stack(values[7:]).mean(0))


def test_the_model_holds_the_average_inside_the_block_and_its_own_bits_after():
    model, values = moving()
    average = AveragedWeights(Average(over="ema", decay=0.5), model, 10)
    follow(average, model, values)
    kept, held = average.tensors()["weight"].clone(), model.weight
    with suppress(KeyError), average.in_place():
        assert torch.equal(model.weight, kept)
        raise KeyError
    assert model.weight is held
    assert torch.equal(model.weight, values[-1])
    assert torch.equal(average.tensors()["weight"], kept)


@pytest.mark.parametrize("changes", [{"train.precision": "bf16"}, {"train.precision": "fp32"}], ids=str)
@pytest.mark.parametrize("over", ["ema", "tail"])
def test_a_run_with_an_average_resumes_exactly_and_is_loaded_averaged(settings, tmp_path, changes, over):
    average = {"over": over, "decay": 0.9, "fraction": 0.6}
    config = settings({**changes, "train.average": average, "train.eval_every": 3})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    train_until(7, config, cut)
    last = train(None, cut, resume=True)
    assert_same_runs(whole, cut)
    assert gw.evaluate(gw.load(cut)).loss == last.val_loss


def test_training_does_not_see_the_average(settings, tmp_path):
    train(settings(), tmp_path / "plain")
    train(settings({"train.average": {"over": "ema"}, "train.eval_every": 2}), tmp_path / "averaged")
    assert tiny.contents(tmp_path / "plain", 12) == tiny.contents(tmp_path / "averaged", 12)
