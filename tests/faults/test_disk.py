"""Disks that fill: a sentence, and everything saved so far still there."""

import os
import shutil
import sys
from contextlib import suppress

import pytest

import gptwright as gw

from .. import tiny
from ..tiny import train

LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n"
"""Files larger than this cannot be written (EFBIG): as much as a process can do to have no disk left."""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits here")
def test_a_checkpoint_that_cannot_be_written_is_absent(config, start, tmp_path):
    folder = tmp_path / "r"
    tiny.train_until(3, config, folder)
    before = {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()}
    size = max(path.stat().st_size for path in before)
    process = start(config, folder, resume=True, before=LIMIT.format(size - 1000))
    out, said = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, ""), said
    assert "could not be written: File too large; free some space or choose another folder with --run" in said
    assert "Traceback" not in said
    assert tiny.checkpoints(folder) == [1, 2, 3]
    assert not list((folder / "checkpoints").glob(".step-*"))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert train(None, folder, resume=True).step == 80


def test_a_full_disk_stops_the_run_and_loses_nothing(config, small_disk):
    folder = small_disk / "r"
    tiny.train_until(3, config, folder)
    fill(small_disk)
    with pytest.raises(gw.CheckpointError, match=r"No space left on device; free some space") as refused:
        train(None, folder, resume=True)
    print(refused.value)
    assert 3 in tiny.checkpoints(folder)
    assert gw.load(folder).settings.train.steps == 80
    (small_disk / "filler").unlink()
    assert train(None, folder, resume=True).step == 80


def test_a_disk_that_is_full_from_the_start(config, small_disk):
    fill(small_disk)
    with pytest.raises(gw.GptwrightError, match=r"cannot be written: No space left on device"):
        train(config, small_disk / "r")
    (small_disk / "filler").unlink()
    folder = small_disk / "r"
    assert train(config, folder, resume=(folder / "config.yaml").exists()).step == 80


def fill(place) -> None:
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(os.urandom(1000))
        except OSError:
            pass


@pytest.mark.parametrize("room", range(2_000, 82_000, 8_000))
def test_whatever_is_written_last_the_run_can_go_on(config, small_disk, room):
    """The disk is full after so many bytes more: in a checkpoint, the metrics, a sample, the summary or the report."""
    folder = small_disk / "r"
    config["train"] |= {"steps": 5}
    tiny.train_until(4, config, folder)
    with (small_disk / "filler").open("wb") as file:
        file.write(os.urandom(shutil.disk_usage(small_disk).free - room))
    with suppress(gw.GptwrightError):
        train(None, folder, resume=True)
    assert gw.load(folder).num_params() > 0
    (small_disk / "filler").unlink()
    assert train(None, folder, resume=True).step == 5
    assert [row["step"] for row in tiny.metrics(folder) if "loss" in row] == [1, 2, 3, 4, 5]
