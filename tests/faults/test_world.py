"""What the world does to a run: clocks that jump, memory that ends, folders that close, files that change."""

import os
import subprocess
import sys

import pytest

import gptwright as gw

from .. import tiny
from ..tiny import assert_same_runs, train, train_until

JUMPING = """
import time
_now, _calls = time.time, [0]
def jumping():
    _calls[0] += 1
    return _now() + (86400 * 365 if _calls[0] % 3 == 0 else -86400 * 30 if _calls[0] % 3 == 1 else 0)
time.time = jumping
"""
"""A wall clock that jumps a year ahead and a month back."""


def test_a_clock_that_jumps_changes_nothing(config, start, tmp_path):
    config["train"] |= {"steps": 10, "checkpoint_every": 4}
    train(config, tmp_path / "quiet")
    process = start(config, tmp_path / "jumping", before=JUMPING)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert_same_runs(tmp_path / "quiet", tmp_path / "jumping")
    rows = tiny.metrics(tmp_path / "jumping")
    seconds = [row["train_seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < 100


LITTLE = "import resource, torch, gptwright; resource.setrlimit(resource.RLIMIT_AS, ({0}, {0}))\n"
"""No more address space than this many bytes."""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is Linux's")
def test_memory_that_runs_out_is_a_sentence_with_a_way_out(config, start, tmp_path):
    config["model"] |= {"max_seq_len": 512, "d_model": 64}
    config["train"] |= {"tokens_per_step": 512 * 256, "micro_batch": 256, "steps": 3}
    process = start(config, tmp_path / "r", before=LITTLE.format(2_500_000_000))
    out, said = process.communicate(timeout=200)
    assert (process.returncode, out) == (2, ""), said
    assert "memory ran out with micro-batches of 256 sequences of 512 tokens; try train.micro_batch=128 or" in said
    assert "train.gradient_checkpointing=block" in said
    assert "Traceback" not in said


def test_a_checkpoint_with_a_flipped_bit_is_named_and_passed_over(config, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config["train"] |= {"steps": 8}
    train(config, whole)
    train_until(5, config, cut)
    path = cut / "checkpoints" / "step-5" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    train(None, cut, resume=True)
    assert "model.safetensors has sha256" in capsys.readouterr().err
    assert_same_runs(whole, cut)


@pytest.mark.parametrize("name", ["optimizer.safetensors", "state.json", "manifest.json", "random.safetensors"])
def test_a_truncated_file_is_never_read(config, tmp_path, name):
    folder = tmp_path / "r"
    config["train"] |= {"steps": 4}
    train_until(3, config, folder)
    path = folder / "checkpoints" / "step-3" / name
    path.write_bytes(path.read_bytes()[:-20])
    assert train(None, folder, resume=True).step == 4


def test_text_that_changes_while_a_run_learns_is_noticed(config, tmp_path, monkeypatch):
    """Somebody writes into the prepared shard; the run stops before it saves anything that was learnt from it."""
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(tmp_path / "cache"))  # the shards of others stay as they are
    config["train"] |= {"steps": 60, "checkpoint_every": 5, "callbacks": ["tests.faults.meddler:Meddler"]}
    with pytest.raises(gw.DataError, match=r"train-00000\.bin"):
        train(config, tmp_path / "r")
    assert tiny.checkpoints(tmp_path / "r") == [5, 10]


def test_a_disk_that_becomes_read_only(config, small_disk):
    folder = small_disk / "r"
    config["train"] |= {"steps": 6}
    tiny.train_until(3, config, folder)
    _remount(small_disk, "ro")
    with pytest.raises(gw.CheckpointError, match="cannot be written: Read-only file system; free some space"):
        train(None, folder, resume=True)
    with pytest.raises(gw.GptwrightError, match="cannot be written: Read-only file system; name another with --run"):
        train(config, small_disk / "other")
    assert gw.load(folder).num_params() > 0
    _remount(small_disk, "rw")
    assert train(None, folder, resume=True).step == 6


def _remount(place, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write everywhere: run as another user")
def test_a_folder_that_may_not_be_written(config, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(gw.GptwrightError, match="cannot be written: Permission denied; name another with --run"):
        train(config, tmp_path / "closed" / "r")
