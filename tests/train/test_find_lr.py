"""The learning-rate range test: on real models, repeatable, and curves whose answer is known."""

import math

import numpy as np
import pytest
import torch

from gptwright.errors import ConfigError
from gptwright.train.find_lr import RangeTest, find_lr
from gptwright.train.report.sweep import sweep_text, write_sweep
from gptwright.train.settings import read_settings

from .test_report import parsed


def shaped(turn: float = 1e-2, steps: int = 100, noise: float = 0.0, high: float = 1.0) -> RangeTest:
    """A curve that falls steepest a decade below ``turn`` and rises steeply from there on."""
    lr = np.geomspace(1e-6, high, steps)
    x = np.log10(lr) - math.log10(turn)
    loss = 4.0 - 2.0 / (1 + np.exp(-4 * (x + 1))) + 6 * np.maximum(0, x) ** 2
    loss += noise * np.random.default_rng(0).normal(size=steps)
    return RangeTest(lr.tolist(), loss.tolist(), 4.0, bool(loss[-1] > 4.6))


@pytest.mark.parametrize("turn", [1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_steepest_fall_and_the_turn_are_found(turn, noise):
    test = shaped(turn, noise=noise)
    assert test.steepest == pytest.approx(turn / 10, rel=0.7)
    assert turn < test.turned < 3.2 * turn
    assert test.tenth == pytest.approx(test.turned / 10, rel=0.06)
    assert test.suggested == test.steepest
    assert f"try optim.lr={test.suggested:.2g}; from {test.turned:.2g} on the loss rises" == test.sentence()


def test_a_loss_that_never_turns_or_never_falls_is_said():
    calm = shaped(1.0, high=0.5)
    assert calm.turned is None
    assert "so larger ones may do: raise --max" in calm.sentence()
    flat = RangeTest([1e-6, 1e-5, 1e-4], [4.0, 4.0, 3.99], 4.0, False)
    assert (flat.suggested, flat.steepest, flat.turned, flat.tenth) == (None, None, None, None)
    assert flat.sentence().endswith("lowered the loss of 4.000: raise --max, or --steps")
    wild = RangeTest([0.1, 0.2], [9.0, 30.0], 4.0, True)
    assert wild.sentence().endswith("lower --min, the first steps are too large already")


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_a_sweep_of_a_real_model(settings, tmp_path, monkeypatch, optim):
    monkeypatch.chdir(tmp_path)
    changes = {"optim": {"type": optim}, "schedule": {"type": "cosine", "warmup_steps": 500}, "train.steps": 1000}
    config = read_settings(settings(changes)).config
    random_state = torch.get_rng_state()
    test = find_lr(config, low=1e-5, high=10.0, steps=30)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert len(test.lr) == len(test.loss) == len(test.smoothed)
    assert test.lr[0] == pytest.approx(1e-5)
    assert test.lr[1] / test.lr[0] == pytest.approx(1e6 ** (1 / 29))
    assert test.start > min(test.loss)
    assert test.suggested is not None
    assert 1e-4 < test.suggested < 1
    assert test.turned is not None
    again = find_lr(config, low=1e-5, high=10.0, steps=30)
    assert again == test
    assert list(tmp_path.iterdir()) == []


def test_every_group_moves_in_proportion(settings):
    from gptwright.model.gpt import GPT
    from gptwright.ops.precision import Precision
    from gptwright.train.find_lr import Sweep

    config = read_settings(settings({"optim": {"type": "muon", "lr": 0.02}, "model.vocab_size": 40})).config
    optimizer = config.build_optimizer(GPT(config.model), Precision("fp32", torch.float32, "highest", ""))
    before = [group["initial_lr"] for group in optimizer.param_groups]
    assert len(set(before)) > 1
    sweep = Sweep(None, 11, lr=0.02, low=1e-4, high=1.0)
    sweep.apply(optimizer, 5)
    assert [group["lr"] / was for group, was in zip(optimizer.param_groups, before, strict=True)] == pytest.approx(
        [0.01 / 0.02] * len(before)
    )


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"low": 1.0, "high": 1e-3}, "the sweep would go from 1 to 0.001; --min must be above 0 and below --max"),
        ({"low": 1e-3, "high": 1e-3}, "--min must be above 0 and below --max"),
        ({"low": 0.0}, "the sweep would go from 0 to 1"),
        ({"low": -1e-3}, "--min must be above 0"),
        ({"high": math.inf}, "the sweep would go from 1e-06 to inf"),
        ({"low": math.nan}, "--min must be above 0"),
        ({"steps": 9}, "9 steps make no curve; --steps must be 10 or more"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(settings, how, sentence):
    with pytest.raises(ConfigError) as caught:
        find_lr(read_settings(settings()).config, **how)
    assert sentence in str(caught.value)


def test_a_sweep_is_drawn(tmp_path):
    test = shaped(noise=0.02)
    page = write_sweep(test, tmp_path / "find-lr.html", "<b>tiny").read_text("utf-8")
    assert parsed(page).links == ["data:,"]
    assert "&lt;b&gt;tiny" in page
    assert test.sentence() in page
    assert page.count('<circle class="k2" r="5"') == 1
    text = sweep_text(test, 60, 10)
    assert len(text.splitlines()) == 10
    assert max(map(len, text.splitlines())) <= 60
    assert "o" in text.split("└")[0]
