"""Trackers: real event files, sentences for what is missing, and runs that outlive their trackers."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gptwright
from gptwright.errors import GptwrightError
from gptwright.train.track import TRACKER, Trackers, open_trackers

SOURCE = str(Path(gptwright.__file__).parents[1])

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
    for start, steps, loss in ((0, (1, 2, 3), 9.0), (2, (3, 4), 1.0)):
        trackers = open_trackers(["tensorboard"], tmp_path, CONFIG, start_step=start)
        for step in steps:
            trackers.log(step, {"loss": loss})
        trackers.close()
        time.sleep(1.1)  # event files are read in the order of their names, which begin with the second
    found = [(e.step, e.value) for e in events(tmp_path).Scalars("train/loss")]
    assert found == [(1, 9.0), (2, 9.0), (3, 1.0), (4, 1.0)]


SESSION = """
import sys
from pathlib import Path
from gptwright.train.track import open_trackers

name, start, *steps = sys.argv[1:]
config = {"model": {"d_model": 64, "norm": {"type": "rms_norm"}}, "optim": {"lr": 0.02}}
trackers = open_trackers([name], Path("run"), config, start_step=int(start), tell=print)
for step in map(int, steps):
    trackers.log(step, {"step": step, "loss": 10.0 * int(start) + step, "memory_bytes": 5e8, "grad_norm/layers.0": 0.5})
    trackers.log(step, {"step": step, "val_loss": 1.5, "val_loss/books": 1.25})
trackers.text(step, "sample", "Once\\n<b>upon</b>")
trackers.close()
assert trackers.notes == [], trackers.notes
"""


def session(folder, name, start, *steps, **environment):
    """One session of a run in a process of its own, with the tracker's real client."""
    (folder / "run").mkdir(exist_ok=True)
    unset = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-c", SESSION, name, *map(str, (start, *steps))],
        cwd=folder,
        env={**unset, "PYTHONPATH": SOURCE, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return json.loads((folder / "run" / "trackers.json").read_text())[name]


def wandb_records(path):
    """Yield the records of an offline file: LevelDB's log format, of chunks (crc, length, kind) in blocks of 32 kB."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # complete, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_history(path):
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            yield record.history.step.num, row


def test_wandb_offline_holds_the_figures_and_a_resumed_run_keeps_its_id(tmp_path):
    pytest.importorskip("wandb")
    first = session(tmp_path, "wandb", 0, 10, 20, 30, WANDB_MODE="offline")
    second = session(tmp_path, "wandb", 20, 30, 40, WANDB_MODE="offline")
    assert first["id"] == second["id"]
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{first['id']}.wandb"] * 2
    rows = dict(wandb_history(files[0]))
    assert list(rows) == [10, 20, 30]
    assert rows[20]["train/loss"] == 20.0
    assert rows[20]["train/memory_bytes"] == 5e8
    assert rows[20]["val/loss"] == 1.5
    assert rows[20]["val/loss/books"] == 1.25
    assert rows[20]["train/grad_norm/layers.0"] == 0.5
    assert [(step, row["train/loss"]) for step, row in wandb_history(files[1])] == [(30, 230.0), (40, 240.0)]
    settings = next(r.run.config for r in wandb_records(files[0]) if r.WhichOneof("record_type") == "run")
    kept = {item.key: json.loads(item.value_json) for item in settings.update}
    assert kept["model"] == {"d_model": 64, "norm": {"type": "rms_norm"}}
    (sample,) = files[0].parent.rglob("sample_*.html")
    assert "Once\n&lt;b&gt;upon&lt;/b&gt;" in sample.read_text()


def test_mlflow_goes_where_it_is_told(tmp_path):
    pytest.importorskip("mlflow")
    told = f"file:{tmp_path}/store"
    kept = session(tmp_path, "mlflow", 0, 10, MLFLOW_TRACKING_URI=told, MLFLOW_EXPERIMENT_NAME="books")
    assert kept["uri"] == told
    (metric,) = (tmp_path / "store").glob(f"*/{kept['id']}/metrics/loss")
    assert metric.read_text().split()[1:] == ["10.0", "10"]


def test_mlflow_files_hold_the_figures_and_a_resumed_run_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    first = session(tmp_path, "mlflow", 0, 10, 20, 30)
    second = session(tmp_path, "mlflow", 20, 30, 40)
    assert first == second
    if importlib.util.find_spec("sqlalchemy") is None:  # mlflow-skinny
        assert first["uri"] == (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    code = """
import json, sys
from mlflow import MlflowClient
uri, run = sys.argv[1:]
client = MlflowClient(uri)
found = client.get_run(run)
points = [(m.step, m.value) for m in client.get_metric_history(run, "loss")]
samples = [file.path for file in client.list_artifacts(run, "sample")]
print(json.dumps([found.data.params, found.data.metrics, points, samples, found.info.status, found.info.run_name]))
"""
    read = subprocess.run(
        [sys.executable, "-c", code, first["uri"], first["id"]], capture_output=True, text=True, timeout=120, check=True
    )
    params, metrics, points, samples, status, name = json.loads(read.stdout)
    assert params == {"model.d_model": "64", "model.norm.type": "rms_norm", "optim.lr": "0.02"}
    assert metrics["loss"] == 240.0
    assert metrics["memory_bytes"] == 5e8
    assert (metrics["val_loss"], metrics["val_loss.books"], metrics["grad_norm.layers.0"]) == (1.5, 1.25, 0.5)
    assert points == [[10, 10.0], [20, 20.0], [30, 30.0], [30, 230.0], [40, 240.0]]
    assert samples == ["sample/step-30.txt", "sample/step-40.txt"]
    assert (status, name) == ("FINISHED", "run")


OWN = """
from gptwright.train.track import Tracker

class Diary(Tracker):
    class Config(Tracker.Config):
        title: str = "diary"

    def __init__(self, config, run):
        super().__init__(config, run)
        self.file = (run.folder / config.title).open("a")
        self.file.write(f"opened at {run.start_step}, kept {dict(run.kept)}\\n")

    def log(self, step, metrics):
        self.file.write(f"{step} {dict(metrics)}\\n")

    def close(self):
        self.file.close()

    def keep(self):
        return {"visits": self.run.kept.get("visits", 0) + 1}
"""


def test_a_tracker_of_ones_own_needs_one_file(tmp_path, monkeypatch):
    (tmp_path / "diary_tracker.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    for start in (0, 5):
        trackers = open_trackers(["diary_tracker:Diary"], tmp_path, CONFIG, start_step=start)
        trackers.log(start + 1, {"step": start + 1, "loss": 2.0})
        trackers.close()
    assert (tmp_path / "diary").read_text().splitlines() == [
        "opened at 0, kept {}",
        "1 {'loss': 2.0}",
        "opened at 5, kept {'visits': 1}",
        "6 {'loss': 2.0}",
    ]


def test_settings_take_the_place_of_a_name(tmp_path):
    trackers = open_trackers([TRACKER.resolve("tensorboard").Config()], tmp_path, CONFIG)
    trackers.close()
    assert (tmp_path / "tensorboard").is_dir()


@pytest.mark.parametrize("text", ["", "[1]", '{"wandb": 3}', "\x00"])
def test_a_damaged_file_of_ids_means_a_new_run(tmp_path, monkeypatch, text):
    (tmp_path / "diary_tracker.py").write_text(OWN)
    (tmp_path / "trackers.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    open_trackers(["diary_tracker:Diary"], tmp_path, CONFIG).close()
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"diary_tracker:Diary": {"visits": 1}}


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
from gptwright.train.track import open_trackers, refuse_missing
told = []
if sys.argv[1] == "before":
    open_trackers = lambda names, *rest, **more: refuse_missing(names)
try:
    trackers = open_trackers(sys.argv[2:], Path(sys.argv[1]), {}, tell=told.append)
    if trackers is None:
        sys.exit()
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
    assert without_packages(tmp_path, "tensorboard") == (
        "no TensorBoard files: the package 'tensorboard' is not installed, which this tracker needs; "
        "pip install 'gptwright[track]'"
    )
    for name in ("wandb", "mlflow"):
        sentence = (
            f"error: the tracker '{name}' cannot be opened: the package '{name}' is not installed, which this tracker "
            f"needs; pip install 'gptwright[{name}]'"
        )
        assert without_packages(tmp_path, name) == sentence
        assert without_packages("before", name) == sentence
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_packages_name_is_no_package(tmp_path):
    (tmp_path / "nosuchtracker").mkdir()
    code = "from gptwright.train.track.base import require; require('nosuchtracker', 'own')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "the package 'nosuchtracker' is not installed, which this tracker needs; pip install" in done.stderr


def test_an_unknown_tracker_is_refused(tmp_path):
    sentence = (
        r"unknown tracker 'tensorbord'; did you mean 'tensorboard'\? \(known: mlflow, tensorboard, wandb, or package"
    )
    with pytest.raises(GptwrightError, match=sentence):
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
