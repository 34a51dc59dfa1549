"""The table of runs: states told by a real lock of a real process, sorting, and folders that are broken."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gptwright.errors import GptwrightError
from gptwright.train.report.read import read_run
from gptwright.train.report.runs import by, line, list_runs
from gptwright.train.report.state import held, state

CONFIG = """\
model:
  {d_model: 32, n_layers: 2, max_seq_len: 16, vocab_size: 10, attention: {type: softmax, n_heads: 2}, norm: rms_norm}
optim: {type: muon}
train: {steps: 30, precision: bf16}
"""
HOLDER = """
import fcntl, os, sys
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def run_folder(folder: Path, steps: int, *, summary: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    rows = [
        {"step": s, "tokens": s * 64, "train_seconds": s / 4, "loss": 3.0 - s / 20, "lr": 1e-3}
        for s in range(1, steps + 1)
    ]
    rows += [{"step": s, "tokens": s * 64, "val_loss": 3.5 - s / 20 + (s == 30), "val_bits_per_byte": 2.0}
             for s in range(10, steps + 1, 10)]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(CONFIG)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps({"step": steps, "params": 12345, **summary}))
    return folder


@pytest.fixture
def holder():
    """Start a process that holds the lock of a folder; killed at the end."""
    started = []

    def hold(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_a_line_says_what_a_run_came_to(tmp_path):
    found = line(run_folder(tmp_path / "a", 30, summary={"val_loss": 3.0, "val_bits_per_byte": 2.0}), "a")
    assert (found.state, found.step, found.steps, found.params) == ("finished", 30, 30, 12345)
    assert (found.val_loss, found.best_val_loss, found.bits_per_byte) == (3.0, 2.5, 2.0)
    assert (found.tokens, found.seconds, found.precision, found.optimizer) == (1920, 7.5, "bf16", "muon")
    assert found.parts == "2x32 softmax, rms_norm"


def test_parameters_are_counted_where_no_summary_tells_them(tmp_path):
    assert line(run_folder(tmp_path / "a", 5), "a").params > 1000


def test_the_lock_tells_who_trains_now(tmp_path, holder):
    folder = run_folder(tmp_path / "a", 20)
    assert (line(folder, "a").state, held(folder)) == ("interrupted", False)
    (folder / ".lock").write_text("left behind by a process that was killed")
    assert line(folder, "a").state == "interrupted"
    process = holder(folder)
    assert (line(folder, "a").state, held(folder)) == ("running", True)
    assert state(read_run(folder)).words == "training now, step 20 of 30"
    process.kill()
    process.wait()
    assert line(folder, "a").state == "interrupted"


def test_the_summary_of_the_end_counts_though_the_trainer_still_holds_its_lock(tmp_path, holder):
    done = run_folder(tmp_path / "done", 30, summary={})
    stopped = run_folder(tmp_path / "stopped", 20, summary={"stopped_because": "val loss rose 3 times"})
    resumed = run_folder(tmp_path / "resumed", 20, summary={"step": 10, "interrupted": True})
    for folder in (done, stopped, resumed):
        holder(folder)
    assert [line(folder, "").state for folder in (done, stopped, resumed)] == ["finished", "stopped", "running"]
    assert state(read_run(stopped)).words == "stopped at step 20 of 30: val loss rose 3 times"
    assert line(stopped, "").note == "val loss rose 3 times"


def test_runs_are_found_at_any_depth_and_broken_ones_are_named(tmp_path):
    run_folder(tmp_path / "b", 30, summary={})
    run_folder(tmp_path / "deep" / "er" / "a", 10)
    (tmp_path / "b" / "checkpoints" / "step-10").mkdir(parents=True)
    (tmp_path / "b" / "checkpoints" / "step-10" / "config.yaml").write_text(CONFIG)  # part of b, no run of its own
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("no run")
    broken = {
        "broken/settings": ("config.yaml", b"a: [1, 2\nb: }"),
        "broken/metrics": ("metrics.jsonl", b"\x00\xff\n{{{\n"),
        "broken/summary": ("summary.json", b"[1]"),
    }
    for name, (file, content) in broken.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).write_bytes(content)
    (tmp_path / "broken" / "half" / "checkpoints").mkdir(parents=True)
    found = {each.name: each for each in list_runs([tmp_path])}
    assert list(found) == ["b", "broken/half", "broken/metrics", "broken/settings", "broken/summary", "deep/er/a"]
    assert found["broken/settings"].note == "config.yaml holds no settings that can be read"
    assert found["broken/metrics"].note == "none of the 2 lines of metrics.jsonl can be read"
    assert "is not a run folder" in found["broken/half"].note
    assert found["broken/summary"].state == "empty"
    assert [each.state for each in found.values()].count("broken") == 3


@pytest.mark.parametrize(
    "summary",
    [
        {"step": "ten"},
        {"step": None, "val_loss": {}},
        {"step": 1e400, "tokens": -1},
        {"params": "many", "tokens": 1e300},
    ],
)
def test_odd_summaries_never_cost_the_list(tmp_path, summary):
    run_folder(tmp_path / "a", 10, summary=summary)
    run_folder(tmp_path / "b", 10)
    assert [each.name for each in list_runs([tmp_path])] == ["a", "b"]


def test_a_run_named_twice_or_alone_is_one_line(tmp_path):
    folder = run_folder(tmp_path / "a", 5)
    assert len(list_runs([tmp_path, folder, tmp_path])) == 1
    assert [each.folder for each in list_runs([folder])] == [str(folder)]


def test_sorting_puts_what_is_not_known_last(tmp_path):
    for name, steps in (("a", 10), ("b", 20), ("c", 5)):
        run_folder(tmp_path / name, steps)
    lines = list_runs([tmp_path])
    assert [each.name for each in by(lines, "val_loss")] == ["b", "a", "c"]
    assert [each.name for each in by(lines, "val_loss", reverse=True)] == ["a", "b", "c"]
    assert [each.name for each in by(lines, "step")] == ["c", "a", "b"]
    with pytest.raises(GptwrightError, match="runs cannot be sorted by 'loss'; name one of name, state, step"):
        by(lines, "loss")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(GptwrightError, match=r"there is no folder '.*absent' to look for runs in"):
        list_runs([tmp_path / "absent"])
