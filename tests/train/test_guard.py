"""Steps that are not finite: skipped, counted, gone back from, and in the end explained by the first bad tensor."""

import json
import sys

import pytest
import torch
from torch import nn

import gptwright as gw
from gptwright.train.callback import Callback
from gptwright.train.data import RunData
from gptwright.train.diagnose import first_bad_tensor
from gptwright.train.settings import read_settings
from gptwright.train.step import Stepper

from .. import tiny
from ..tiny import assert_same_runs, train, train_until


@pytest.fixture
def poison(settings, monkeypatch):
    """Let the loss of certain batches, named by their place in the order of an untouched run, be NaN."""

    def poison(*numbers: int) -> None:
        rows, plain = _rows(settings(), numbers), Stepper._summed_loss

        def poisoned(self, inputs, targets, segments=None):
            loss, aux = plain(self, inputs, targets, segments)
            return loss * (float("nan") if self.working.model.training and inputs[0].tolist() in rows else 1), aux

        monkeypatch.setattr(Stepper, "_summed_loss", poisoned)

    return poison


def _rows(config, numbers) -> list[list[int]]:
    data = RunData.open(read_settings(config).config, torch.device("cpu"))
    return [data.batch(4 * number, 4).inputs[0].tolist() for number in numbers]


def skipped(folder) -> dict[int, int]:
    return {step: row["skipped_steps"] for step, row in tiny.curve(folder).items()}


def test_a_single_bad_batch_is_skipped_and_counted(settings, tmp_path, poison, capsys):
    poison(4)
    assert train(settings(), tmp_path / "r").rollbacks == 0
    assert skipped(tmp_path / "r") == {step: int(step >= 5) for step in range(1, 13)}
    assert "step 5: the loss is not finite; the step is skipped" in capsys.readouterr().err


def test_a_skipped_step_moves_nothing(settings, tmp_path, poison):
    poison(4)
    train(settings({"train.checkpoint_every": 1, "train.keep_checkpoints": 20}), tmp_path / "r")
    before, after = (tiny.contents(tmp_path / "r", step) for step in (4, 5))
    assert before["model.safetensors"] == after["model.safetensors"]
    assert before["optimizer.safetensors"] == after["optimizer.safetensors"]


def test_many_in_a_row_lead_back_and_the_batch_is_left_out(settings, tmp_path, poison, capsys):
    config = settings({"train.skip_limit": 3, "train.checkpoint_every": 4})
    poison(5, 6, 7)
    done = train(config, tmp_path / "again")
    assert (done.rollbacks, done.step) == (1, 12)
    poison(5, 6, 7, 8)
    with pytest.raises(gw.GptwrightError, match="3 steps in a row up to step 8 were not finite again"):
        train(config, tmp_path / "stopped")  # the next batch is bad too, so leaving one out does not help
    said = capsys.readouterr().err
    assert (
        "3 steps in a row were not finite from step 6 on; the run goes back to step 4 and leaves out the batch" in said
    )
    assert gw.load(tmp_path / "stopped").settings is not None


class Corrupts(Callback):
    """A bit flips in memory, once, after step 6: everything is NaN from there on."""

    done = False

    def on_step(self, run, result):
        if run.step == 6 and not Corrupts.done:
            Corrupts.done = True
            run.model.layers[1].feed_forward.up_proj.weight.data[0, 0] = float("nan")


@pytest.fixture
def corrupted(settings, monkeypatch):
    monkeypatch.setattr(Corrupts, "done", False)
    monkeypatch.setitem(sys.modules, Corrupts.__module__, sys.modules[__name__])
    callbacks = [f"{Corrupts.__module__}:Corrupts"]
    return lambda changes: settings({"train.callbacks": callbacks, "train.skip_limit": 2, **changes})


def test_weights_gone_bad_are_those_of_the_checkpoint_again(corrupted, tmp_path):
    result = train(corrupted({}), tmp_path / "r")
    assert (result.rollbacks, result.step) == (1, 12)
    rows = tiny.curve(tmp_path / "r")
    assert list(rows) == list(range(1, 13))
    assert all(row["loss"] is not None for row in rows.values())
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["rollbacks"] == 1
    state = json.loads((tmp_path / "r" / "checkpoints" / "step-8" / "state.json").read_text())
    assert state["plan"] == {"row": 36, "left_out": []}  # batch 6, rows 24 to 28, was left out


def test_a_run_that_went_back_resumes_exactly(corrupted, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(corrupted({"train.steps": 16}), whole)
    Corrupts.done = False
    train_until(9, corrupted({"train.steps": 16}), cut)
    train(None, cut, resume=True)
    assert_same_runs(whole, cut)


def test_without_a_checkpoint_it_begins_anew(corrupted, tmp_path):
    result = train(corrupted({"train.checkpoint_every": 0}), tmp_path / "r")
    assert (result.rollbacks, result.step) == (1, 12)


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.middle = lambda x: x

    def forward(self, x):
        return self.third(self.middle(self.second(self.first(x)))).sum()


def bad_tensor(change) -> str | None:
    model = Chain()
    change(model)
    return first_bad_tensor(model, lambda: model(torch.ones(2, 4)))


def test_the_first_bad_tensor_is_named():
    assert bad_tensor(lambda model: None) is None
    weight = bad_tensor(lambda model: model.second.weight.data[0].fill_(torch.nan))
    assert weight == "the weight second.weight (4x4) holds 4 NaN of 16 values"
    output = bad_tensor(lambda model: model.first.weight.data.fill_(3e38))
    assert output == "the output of first (2x4) holds 8 infinite of 8 values"

    def root(model):  # finite forward, infinite slope at 0
        model.second.weight.data.zero_()
        model.second.bias.data.zero_()
        model.middle = torch.sqrt

    assert bad_tensor(root).startswith("the gradient of the output of second (2x4) holds")


def test_fp16_may_look_for_its_scale_without_being_called_broken(settings, tmp_path, capsys):
    done = train(settings({"train.precision": "fp16", "train.skip_limit": 1}), tmp_path / "r")
    assert (done.step, done.rollbacks) == (12, 0)
    assert "not finite" not in capsys.readouterr().err
