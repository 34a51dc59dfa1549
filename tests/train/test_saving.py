"""Saving beside training: what is written is the moment of asking, and what fails is told."""

import json

import pytest
import torch

from gptwright.errors import CheckpointError
from gptwright.train.checkpoint import verify
from gptwright.train.contents import Contents
from gptwright.train.saving import BEST, Saver

from .. import tiny


def contents(value: float) -> tuple[Contents, torch.Tensor]:
    tensor = torch.full((200, 200), value)
    return Contents({"model.safetensors": {"w": tensor}}, {"state.json": json.dumps({"value": value})}), tensor


def value_of(folder) -> float:
    return float(verify(folder).weights()["w"].unique().item())


def test_a_snapshot_is_written_whatever_training_does_meanwhile(tmp_path):
    saver = Saver(tmp_path / "checkpoints", keep=2)
    given, tensor = contents(1.0)
    saver.save(1, given, None)
    tensor.fill_(9.0)
    saver.wait()
    assert value_of(tmp_path / "checkpoints" / "step-1") == 1.0


def test_the_latest_and_the_best_are_kept(tmp_path):
    saver = Saver(tmp_path / "checkpoints", keep=2)
    for step, best in ((1, (1, 5.0)), (2, (2, 3.0)), (3, (2, 3.0)), (4, (2, 3.0)), (5, (2, 3.0))):
        saver.save(step, contents(step)[0], best)
    saver.wait()
    assert tiny.checkpoints(tmp_path) == [2, 4, 5]
    assert json.loads((tmp_path / "checkpoints" / BEST).read_text()) == {"step": 2, "val_loss": 3.0}


def test_what_fails_in_the_background_is_raised_once_in_front(tmp_path):
    (tmp_path / "checkpoints").write_text("a file is in the way")
    saver = Saver(tmp_path / "checkpoints", keep=2)
    saver.save(1, contents(1.0)[0], None)
    with pytest.raises(CheckpointError, match="step-1 could not be written: Not a directory; free some"):
        saver.wait()
    saver.check()


def test_a_failing_save_does_not_stop_a_later_one(tmp_path):
    place = tmp_path / "checkpoints"
    place.write_text("a file is in the way")
    saver = Saver(place, keep=2)
    saver.save(1, contents(1.0)[0], None)
    with pytest.raises(CheckpointError):
        saver.save(2, contents(2.0)[0], None)
    place.unlink()
    saver.save(3, contents(3.0)[0], None)
    saver.finish_quietly()
    assert tiny.checkpoints(tmp_path) == [3]
