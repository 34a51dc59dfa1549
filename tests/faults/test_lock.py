"""Two trainers, one folder: the second is refused, and a lock dies with its owner."""

import json
import signal

import pytest

import gptwright as gw

from .. import tiny
from ..tiny import train
from .test_signals import wait


def test_a_second_trainer_is_refused_and_a_killed_one_holds_nothing(config, start, tmp_path):
    folder = tmp_path / "r"
    config["train"] |= {"steps": 4000, "checkpoint_every": 5}
    first = start(config, folder)
    wait(lambda: tiny.checkpoints(folder), first)
    for resume in (True, False):
        second = start(config, folder, resume=resume)
        out, said = second.communicate(timeout=100)
        assert (second.returncode, out) == (2, ""), said
        expected = f"is being trained by process {first.pid} since" if resume else "exists already; continue it"
        assert expected in said
    assert first.poll() is None
    first.kill()
    first.wait()
    further = tiny.checkpoints(folder)[-1] + 2
    assert train(None, folder, overrides={"train.steps": further}, resume=True).step == further
    assert not (folder / ".lock").exists()


def test_two_that_begin_at_once_do_not_mix(config, start, tmp_path):
    folder = tmp_path / "r"
    both = [start(config, folder) for _ in range(2)]
    ended = [process.communicate(timeout=100) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    winner = next(out for process, (out, _) in zip(both, ended, strict=True) if process.returncode == 0)
    assert json.loads(winner)["step"] == 80
    assert list(tiny.curve(folder)) == list(range(1, 81))


def test_a_lock_file_that_was_left_behind_stops_nobody(config, tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / ".lock").write_text("process 1 since yesterday")
    config["train"] |= {"steps": 3}
    assert train(config, folder).step == 3


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_lets_the_lock_go(config, start, tmp_path, name):
    folder = tmp_path / "r"
    config["train"] |= {"steps": 4000, "checkpoint_every": 0}
    process = start(config, folder)
    wait(lambda: tiny.reached(folder) >= 2, process)
    process.send_signal(signal.Signals[name])
    process.communicate(timeout=100)
    assert not (folder / ".lock").exists()
    assert gw.load(folder).settings is not None
