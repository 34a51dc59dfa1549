"""Callbacks: what is called when, what they may do, and what of them survives an interruption."""

import json
import sys

import pytest

import gptwright as gw
from gptwright.train.callback import Callback

from .. import tiny
from ..tiny import assert_same_runs, train, train_until


class Diary(Callback):
    """Writes down what happened."""

    class Config(Callback.Config):
        stop_at: int = 0
        """Step at which to ask for a stop; 0 never."""

    def __init__(self, config, ctx=None):
        super().__init__(config, ctx)
        self.seen = []

    def on_start(self, run):
        Diary.last = self
        self.seen.append(f"start {run.step} {run.config.train.steps} {run.path.name}")

    def on_step(self, run, result):
        assert run.model.device.type
        self.seen.append(f"step {run.step} {run.tokens} {result.skipped}")
        if run.step == self.config.stop_at:
            run.stop("the diary is full")

    def on_log(self, run, row):
        self.seen.append(f"log {row['step']}")

    def on_evaluation(self, run, row):
        self.seen.append(f"evaluation {row['step']} {row['val_loss'] > 0}")

    def on_sample(self, run, text):
        self.seen.append(f"sample {run.step} {bool(text)}")

    def on_checkpoint(self, run, folder):
        self.seen.append(f"checkpoint {folder.name}")

    def on_end(self, run, result):
        self.seen.append(f"end {result.step} {result.stopped_because}")

    def state(self):
        return {"pages": len(self.seen)}

    def restore(self, state):
        self.seen = [f"{state['pages']} pages before"]


@pytest.fixture
def diary(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, Diary.__module__, sys.modules[__name__])
    name = f"{Diary.__module__}:Diary"
    return lambda changes=None, **own: settings({"train.callbacks": [{"type": name, **own}], **(changes or {})})


def test_each_moment_is_told_in_its_order(diary, tmp_path):
    train(diary({"train.steps": 3, "train.log_every": 2, "train.checkpoint_every": 2}), tmp_path / "r")
    assert Diary.last.seen == [
        "start 0 3 r",
        *("step 1 64 False", "log 1"),
        *("step 2 128 False", "log 2", "checkpoint step-2"),
        *("step 3 192 False", "log 3", "evaluation 3 True", "sample 3 True", "checkpoint step-3"),
        "end 3 None",
    ]


def test_a_callback_may_stop_a_run_which_can_go_on(diary, tmp_path):
    result = train(diary(stop_at=5), tmp_path / "r")
    assert (result.step, result.interrupted, result.stopped_because) == (5, False, "the diary is full")
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["stopped_because"] == "the diary is full"
    assert train(diary(stop_at=0), tmp_path / "r", resume=True).step == 12
    assert Diary.last.seen[0].endswith("pages before")


def test_an_error_of_a_callback_ends_the_run_and_loses_nothing(diary, tmp_path, monkeypatch):
    def fail(self, run, row):
        raise ZeroDivisionError("mine")

    monkeypatch.setattr(Diary, "on_evaluation", fail)
    with pytest.raises(ZeroDivisionError):
        train(diary({"train.eval_every": 6}), tmp_path / "r")
    assert tiny.checkpoints(tmp_path / "r") == [4]


WORSE = {"optim.lr": 3.0, "train.eval_every": 2, "train.checkpoint_every": 3, "train.clip": 0.0, "train.steps": 40}


def test_early_stopping_keeps_the_best_and_resumes_exactly(settings, tmp_path):
    config = settings({**WORSE, "train.callbacks": [{"type": "early_stopping", "patience": 3}]})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = train(config, whole)
    assert done.step < 40
    assert "early stopping: the validation loss has not fallen below" in done.stopped_because
    losses = {row["step"]: row["val_loss"] for row in tiny.metrics(whole) if "val_loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert (done.best_step, done.best_val_loss) == (best, losses[best])
    assert best == done.step - 6
    assert best in tiny.checkpoints(whole)
    assert json.loads((whole / "checkpoints" / "best.json").read_text()) == {"step": best, "val_loss": losses[best]}
    assert gw.evaluate(gw.load(whole, best=True)).loss == losses[best]
    train_until(done.step - 3, config, cut)
    assert train(None, cut, resume=True).step == done.step
    assert_same_runs(whole, cut)


def test_an_unknown_callback_is_refused(settings, tmp_path):
    with pytest.raises(gw.ConfigError, match="unknown callback 'early_stop'; did you mean 'early_stopping'"):
        train(settings({"train.callbacks": ["early_stop"]}), tmp_path / "r")


def test_callbacks_may_change_when_a_run_goes_on(settings, tmp_path):
    train_until(5, settings(), tmp_path / "r")
    config = settings({"train.callbacks": ["early_stopping"]})
    assert train(config, tmp_path / "r", resume=True).step == 12
