"""Trackers: real event files, sentences for what is missing, and runs that outlive their trackers."""

import subprocess
import sys
import time

import pytest

from gptwright.errors import GptwrightError
from gptwright.train.track import Trackers, open_trackers

CONFIG = {"model": {"d_model": 64, "norm": {"type": "rms_norm"}}, "optim": {"lr": 0.02}}


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_tensorboard_files_hold_what_was_logged(tmp_path):
    trackers = open_trackers(["tensorboard"], tmp_path, CONFIG)
    for step in (10, 20):
        trackers.log(step, {"step": step, "loss": 4.0 / step, "lr": 1e-3, "note": "words", "nothing": None})
    trackers.log(20, {"step": 20, "val_loss": 1.5, "val_bits_per_byte": 2.25})
    trackers.text(20, "sample", "Once\n<b>upon</b>")
    trackers.close()
    read = events(tmp_path)
    assert sorted(read.Tags()["scalars"]) == ["train/loss", "train/lr", "val/bits_per_byte", "val/loss"]
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [
        (10, pytest.approx(0.4)),
        (20, pytest.approx(0.2)),
    ]
    texts = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]}
    assert texts["sample/text_summary"] == "    Once\n    <b>upon</b>"
    assert '"rms_norm"' in texts["config/text_summary"]
    assert trackers.notes == []


def test_a_resumed_run_supersedes_what_lies_ahead_of_it(tmp_path):
    for start, steps, loss in ((0, (1, 2, 3), 9.0), (2, (2, 3), 1.0)):
        trackers = open_trackers(["tensorboard"], tmp_path, CONFIG, start_step=start)
        for step in steps:
            trackers.log(step, {"loss": loss})
        trackers.close()
        time.sleep(1.1)  # event files are read in the order of their names, which begin with the second
    assert [(e.step, e.value) for e in events(tmp_path).Scalars("train/loss")] == [(1, 9.0), (2, 1.0), (3, 1.0)]


def test_no_tracker_is_fine(tmp_path):
    trackers = open_trackers([], tmp_path, CONFIG)
    trackers.log(1, {"loss": 1.0})
    trackers.close()
    assert list(tmp_path.iterdir()) == []


WITHOUT = """
import sys
import time
from pathlib import Path

import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {"tensorboard", "wandb", "mlflow"} else find(name, *rest)
from gptwright.errors import GptwrightError
from gptwright.train.track import open_trackers
told = []
try:
    trackers = open_trackers(sys.argv[2:], Path(sys.argv[1]), {}, tell=told.append)
    trackers.log(1, {"loss": 1.0})
    trackers.close()
    assert told == trackers.notes
    sys.stdout.write("|".join(trackers.notes))
except GptwrightError as error:
    sys.stdout.write(f"error: {error}")
"""


def without_packages(folder, *names):
    command = [sys.executable, "-c", WITHOUT, str(folder), *names]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_missing_packages_are_said(tmp_path):
    note = "no TensorBoard files: the package is not installed; pip install 'gptwright[track]'"
    assert without_packages(tmp_path, "tensorboard") == note
    for name in ("wandb", "mlflow"):
        sentence = f"error: the tracker '{name}' needs a package that is not installed; pip install {name}"
        assert without_packages(tmp_path, name) == sentence
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(GptwrightError, match="unknown tracker 'tensorbord'; known: tensorboard, wandb, mlflow"):
        open_trackers(["tensorbord"], tmp_path, CONFIG)


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path):
    (tmp_path / "tensorboard").write_text("a file is in the way")
    told = []
    trackers = open_trackers(["tensorboard"], tmp_path, CONFIG, tell=told.append)
    trackers.log(1, {"loss": 1.0})
    trackers.close()
    assert len(trackers.notes) == 1
    assert trackers.notes == told
    assert "the tracker 'tensorboard' is switched off" in told[0]


class Failing:
    """A tracker of somebody else's that stops working at step 2."""

    def __init__(self):
        self.seen = []

    def log(self, step, metrics):
        self.seen.append(step)
        print("chatter")
        if step == 2:
            raise ConnectionError("the network is gone")

    def text(self, step, name, text):
        self.seen.append(name)

    def close(self):
        self.seen.append("close")


def test_a_tracker_that_fails_is_switched_off_with_one_note(capsys):
    failing, told = Failing(), []
    trackers = Trackers({"own": failing}, [], told.append)
    for step in (1, 2, 3):
        trackers.log(step, {"loss": 1.0})
    trackers.text(3, "sample", "words")
    trackers.close()
    assert failing.seen == [1, 2]
    assert capsys.readouterr() == ("", "chatter\nchatter\n")
    assert told == ["the tracker 'own' is switched off: ConnectionError: the network is gone; the run itself goes on"]
