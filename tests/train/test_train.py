"""What a run leaves behind, and what it leaves alone."""

import json
import math
import signal
import time
from typing import ClassVar

import pytest
import torch

import gptwright as gw
from gptwright.nn.attention.softmax import Softmax

from .. import tiny
from ..tiny import metrics, train, train_until

TRAIN_KEYS = {"step", "tokens", "train_seconds", "loss", "lr", "grad_norm", "tokens_per_second", "peak_fraction"}
VAL_KEYS = {"step", "tokens", "train_seconds", "val_loss", "val_bits_per_byte"}


def test_a_run_folder(settings, tmp_path):
    folder = tmp_path / "runs" / "first"
    config = settings({"train.eval_every": 4, "train.sample_every": 6, "train.log_every": 5})
    result = train(config, folder)
    training = [row for row in metrics(folder) if "loss" in row]
    validation = [row for row in metrics(folder) if "val_loss" in row]
    assert [row["step"] for row in training] == [1, 5, 10, 12]
    assert [row["step"] for row in validation] == [4, 8, 12]
    assert all(set(row) >= TRAIN_KEYS for row in training)
    assert all(set(row) == VAL_KEYS for row in validation)
    assert all(row["tokens"] == 64 * row["step"] for row in metrics(folder))
    assert training[-1]["loss"] < training[0]["loss"]
    assert (result.step, result.tokens, result.interrupted) == (12, 768, False)
    assert result.val_loss == validation[-1]["val_loss"]
    assert result.tokens_per_second == pytest.approx(result.tokens / result.train_seconds)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == {**result.to_dict(), "params": gw.load(folder).num_params()}
    samples = (folder / "samples.txt").read_text()
    assert samples.startswith("=== step 6 | 384 tokens ===\n")
    assert "=== step 12 | 768 tokens ===\n" in samples
    assert "<html" in (folder / "report.html").read_text()[:300].lower()
    assert tiny.checkpoints(folder) == [8, 12]
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"config.yaml", "metrics.jsonl", "samples.txt", "summary.json", "report.html", "checkpoints"}


def test_the_settings_saved_are_whole_and_give_the_same_run(settings, tmp_path):
    train(settings(), tmp_path / "first")
    saved = tmp_path / "first" / "config.yaml"
    assert "vocab_size" in saved.read_text()
    train(saved, tmp_path / "second")
    tiny.assert_same_runs(tmp_path / "first", tmp_path / "second")
    assert (tmp_path / "second" / "config.yaml").read_text() == saved.read_text()


def test_nothing_that_is_saved_was_pickled(settings, tmp_path):
    train(settings({"optim": {"type": "muon"}, "train.precision": "fp16"}), tmp_path / "r")
    files = [path for path in (tmp_path / "r").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".yaml", ".jsonl", ".txt", ".json", ".html", ".safetensors"}
    assert not [path for path in files if path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")]


def test_without_evaluation_and_checkpoints_on_the_way_there_is_one_of_each_at_the_end(settings, tmp_path):
    quiet = {"train.eval_every": 0, "train.checkpoint_every": 0, "train.sample_every": 0, "train.sample_tokens": 0}
    train(settings(quiet), tmp_path / "r")
    assert [row["step"] for row in metrics(tmp_path / "r") if "val_loss" in row] == [12]
    assert tiny.checkpoints(tmp_path / "r") == [12]
    assert not (tmp_path / "r" / "samples.txt").exists()


class Slow(Softmax):
    """Takes its time, and says how long it took in training and in evaluation."""

    spent: ClassVar[dict[bool, float]] = {True: 0.0, False: 0.0}

    def forward(self, x, seq, state=None):
        pause = 0.004 if self.training else 0.03
        time.sleep(pause)
        self.spent[self.training] += pause
        return super().forward(x, seq, state)


def test_train_seconds_count_training_and_not_evaluation(settings, tmp_path):
    attention = {"type": f"{__name__}:Slow", "n_heads": 2}
    config = settings({"model.attention": attention, "train.eval_every": 3, "train.sample_every": 6})
    began = time.perf_counter()
    result = train(config, tmp_path / "r")
    whole = time.perf_counter() - began
    assert Slow.spent[False] > 0.3
    assert Slow.spent[True] <= result.train_seconds <= whole - Slow.spent[False]
    clock = [row["train_seconds"] for row in metrics(tmp_path / "r")]
    assert clock == sorted(clock)


def test_train_seconds_go_on_when_a_run_does(settings, tmp_path):
    first = train_until(6, settings(), tmp_path / "r")
    second = train(None, tmp_path / "r", resume=True)
    assert second.train_seconds > first.train_seconds
    clock = [row["train_seconds"] for row in metrics(tmp_path / "r")]
    assert clock == sorted(clock)
    assert second.tokens_per_second == pytest.approx(second.tokens / second.train_seconds)


def test_label_smoothing_is_for_training_alone(settings, tmp_path):
    smooth = train(settings({"train.label_smoothing": 0.2}), tmp_path / "smooth")
    assert gw.evaluate(gw.load(tmp_path / "smooth")).loss == pytest.approx(smooth.val_loss, rel=1e-5)
    plain = train(settings(), tmp_path / "plain")
    assert abs(smooth.val_loss - plain.val_loss) < 0.2
    first = [tiny.curve(tmp_path / name)[1]["loss"] for name in ("smooth", "plain")]
    assert first[0] != first[1]


def global_state() -> dict:
    matmul = torch.backends.mkldnn.matmul
    return {
        "random": torch.get_rng_state().tolist(),
        "matmul": (torch.get_float32_matmul_precision(), matmul.fp32_precision),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_what_is_global_is_left_as_it_was(settings, tmp_path, precision):
    torch.manual_seed(123)
    before = global_state()
    train(settings({"train.precision": precision}), tmp_path / "r")
    model = gw.load(tmp_path / "r")
    gw.generate(model, "the ", max_new_tokens=5, seed=3)
    gw.evaluate(model)
    assert global_state() == before


def test_what_is_global_is_left_as_it_was_when_a_run_fails(settings, tmp_path):
    torch.manual_seed(123)
    before = global_state()
    with pytest.raises(gw.GptwrightError, match="not finite"):
        train(settings({"optim.lr": 1e30, "train.steps": 40}), tmp_path / "r")
    assert global_state() == before


def test_a_run_in_which_nothing_is_finite_stops_with_a_sentence(settings, tmp_path, capsys):
    config = settings({"optim.lr": 1e30, "train.steps": 60, "train.checkpoint_every": 1, "train.keep_checkpoints": 50})
    with pytest.raises(gw.GptwrightError) as stopped:
        train(config, tmp_path / "r")
    said = str(stopped.value)
    assert "5 steps in a row up to step" in said
    assert "what went bad first: the output of layers.0." in said
    assert "lower optim.lr" in said
    told = capsys.readouterr().err
    assert "is not finite; the step is skipped" in told
    assert "5 steps in a row were not finite from step 2 on; the run goes back to step 1 and leaves out" in told
    rows = tiny.curve(tmp_path / "r")
    assert rows[max(rows)]["skipped_steps"] >= 4
    assert all(value is None or math.isfinite(value) for row in rows.values() for value in row.values())
    assert len(rows) < 60


def test_fp16_finds_its_scale_and_learns(settings, tmp_path):
    config = settings({"train.precision": "fp16", "train.steps": 40, "train.checkpoint_every": 0, "model.dropout": 0.0})
    train(config, tmp_path / "r")
    rows = tiny.curve(tmp_path / "r")
    assert rows[40]["skipped_steps"] <= 10
    assert rows[40]["loss"] < rows[1]["loss"] - 0.3


def test_overrides_and_config_objects_name_the_same_run(settings, tmp_path):
    train(settings({"train.steps": 5}), tmp_path / "a")
    train(settings(), tmp_path / "b", overrides={"train.steps": 5})
    train(settings(), tmp_path / "c", overrides=["train.steps=5"])
    train(gw.RunConfig.from_dict(settings({"train.steps": 5})), tmp_path / "d")
    for name in "bcd":
        tiny.assert_same_runs(tmp_path / "a", tmp_path / name)


def test_a_config_file_names_the_run(settings, tmp_path, monkeypatch, book):
    monkeypatch.chdir(tmp_path)
    text = json.dumps(settings({"train.steps": 2, "data.source": str(book)}))
    (tmp_path / "little.yaml").write_text(text)
    assert gw.train("little.yaml", progress=False).run == "runs/little"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler deprecates parts of itself
@pytest.mark.exhaustive
def test_compiled_steps_are_close_to_plain_ones(settings, tmp_path):
    plain = train(settings({"model.dropout": 0.0}), tmp_path / "plain")
    compiled = train(settings({"model.dropout": 0.0, "train.compile": True}), tmp_path / "compiled")
    assert compiled.val_loss == pytest.approx(plain.val_loss, rel=1e-3)
