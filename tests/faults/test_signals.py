"""Real processes, interrupted and killed: nothing is lost beyond the last checkpoint, and the rest is the same run."""

import json
import signal
import time

import pytest

import gptwright as gw

from .. import tiny
from ..tiny import assert_same_runs, train


def wait(condition, process) -> None:
    until = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(config, start, tmp_path, number):
    config["train"] |= {"checkpoint_every": 0, "steps": 4000}
    process = start(config, tmp_path / "r")
    wait(lambda: tiny.reached(tmp_path / "r") >= 3, process)
    process.send_signal(number)
    out, errors = process.communicate(timeout=100)
    result = json.loads(out)
    assert (process.returncode, errors) == (0, "")
    assert result["interrupted"]
    assert 3 <= result["step"] < 4000
    assert tiny.checkpoints(tmp_path / "r") == [result["step"]]
    assert gw.load(tmp_path / "r").settings.train.steps == 4000


def test_a_second_sigint_does_not_wait(config, start, tmp_path):
    """The first asks for a stop after the step; the second ends the process, whose checkpoints stay whole."""
    config["train"] |= {"steps": 4000}
    process = start(config, tmp_path / "r")
    wait(lambda: tiny.checkpoints(tmp_path / "r")[-1:] > [2], process)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    process.communicate(timeout=100)
    assert gw.load(tmp_path / "r").tokenizer is not None
    further = tiny.checkpoints(tmp_path / "r")[-1] + 2
    assert train(None, tmp_path / "r", overrides={"train.steps": further}, resume=True).step == further


def test_killed_again_and_again_it_is_the_same_run(config, start, tmp_path):
    """Killed before the first step, between steps, and in the middle of saving."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config["optim"] = {"type": "muon"}
    config["train"]["precision"] = "bf16"
    config["model"]["feed_forward"] = {"type": "moe", "n_experts": 3, "d_ff": 8}
    train(config, whole)
    moments = [
        lambda: (cut / "config.yaml").exists(),
        lambda: tiny.reached(cut) >= 3,
        lambda: list((cut / "checkpoints").glob(".step-*.partial-*")),
        lambda: list((cut / "checkpoints").glob(".step-*.partial-*/optimizer.safetensors")),
    ]
    for number, moment in enumerate(moments):
        process = start(config, cut, resume=number > 0)
        here = tiny.checkpoints(cut)[-1:]
        wait(lambda moment=moment, here=here: moment() and tiny.checkpoints(cut)[-1:] >= here, process)
        process.kill()
        process.wait()
        print(f"kill {number} at step {tiny.reached(cut)}, checkpoints {tiny.checkpoints(cut)}")
    assert tiny.reached(cut) < 80
    train(None, cut, resume=True)
    assert_same_runs(whole, cut)
    assert not list((cut / "checkpoints").glob(".step-*"))


def test_two_threads_are_as_exact_as_one(config, start, tmp_path):
    config["train"] |= {"steps": 16, "checkpoint_every": 5}
    config["model"] |= {"d_model": 64}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    two = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    assert start(config, whole, **two).wait(timeout=200) == 0
    process = start(config, cut, **two)
    wait(lambda: tiny.reached(cut) >= 7, process)
    process.kill()
    process.wait()
    assert start(config, cut, resume=True, **two).wait(timeout=200) == 0
    assert_same_runs(whole, cut)
