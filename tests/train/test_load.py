"""Reading a trained model back."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import gptwright as gw
from gptwright.nn.attention.softmax import Softmax

from .. import tiny
from ..tiny import train


@pytest.fixture(scope="module")
def run(tmp_path_factory, book):
    folder = tmp_path_factory.mktemp("load") / "r"
    train(tiny.settings(book), folder)
    return folder


def test_a_run_and_its_newest_checkpoint_are_the_same_model(run):
    model = gw.load(run)
    again = gw.load(str(run / "checkpoints" / "step-12"))
    earlier = gw.load(run / "checkpoints" / "step-8")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(model(ids), again(ids))
        assert not torch.equal(model(ids), earlier(ids))
    assert not model.training
    assert model.tokenizer.decode(model.tokenizer.encode("the cat")) == "the cat"
    assert model.settings.train.steps == 12


def test_a_checkpoint_can_be_moved_away_from_its_run(run, tmp_path):
    moved = tmp_path / "anything"
    (run / "checkpoints" / "step-12").rename(moved)
    try:
        assert gw.generate(gw.load(moved), "the ", max_new_tokens=3, seed=0).startswith("the ")
    finally:
        moved.rename(run / "checkpoints" / "step-12")


@pytest.mark.parametrize("tie", [True, False])
def test_tied_weights_stay_tied(settings, tmp_path, tie):
    train(settings({"model.tie_embeddings": tie, "train.precision": "bf16"}), tmp_path / "r")
    train(None, tmp_path / "r", overrides={"train.steps": 14}, resume=True)
    model = gw.load(tmp_path / "r")
    assert (model.lm_head.weight is model.token_embedding.weight) == tie
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.num_params() == model.config.num_params()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "there is no folder"),
        (".", "is not a run: it has no config.yaml; give the folder that train wrote"),
        ("checkpoints", "is not a run"),
    ],
)
def test_what_is_no_run(run, tmp_path, place, words):
    with pytest.raises(gw.CheckpointError, match=words):
        gw.load((run if place == "checkpoints" else tmp_path) / place)


def test_a_run_that_has_saved_nothing_yet(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(gw.CheckpointError, match="holds no checkpoint yet"):
        gw.load(tmp_path)


def test_code_named_by_a_saved_folder_is_not_run_unless_trusted(tmp_path, book, monkeypatch):
    """The module would leave a mark when it is imported."""
    (tmp_path / "marker_mod.py").write_text(
        "import pathlib\n"
        "from gptwright.nn.attention.softmax import Softmax\n"
        f"pathlib.Path({str(tmp_path / 'mark')!r}).touch()\n"
        "class Mine(Softmax):\n"
        "    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    attention = {"type": "marker_mod:Mine", "n_heads": 2}
    train(tiny.settings(book, {"model.attention": attention}), tmp_path / "r")
    (tmp_path / "mark").unlink()
    code = "import sys, gptwright as gw\ngw.load('r', trust_code=len(sys.argv) > 1)\n"
    refused = tiny.python(code, tmp_path)
    assert "pass --trust-code (trust_code=True in Python) if you trust that code" in refused.communicate(timeout=100)[1]
    assert refused.returncode
    assert not (tmp_path / "mark").exists()
    trusted = tiny.python(code, tmp_path, "trust")
    assert trusted.communicate(timeout=100)[1] == ""
    assert (tmp_path / "mark").exists()


class Mine(Softmax):
    """An attention from outside the package."""


def test_resuming_from_saved_settings_honours_distrust(tmp_path, book):
    attention = {"type": f"{__name__}:Mine", "n_heads": 2}
    tiny.train_until(5, tiny.settings(book, {"model.attention": attention}), tmp_path / "r")
    with pytest.raises(gw.ConfigError, match="would import code named by a saved folder"):
        train(None, tmp_path / "r", resume=True, trust_code=False)
    assert train(None, tmp_path / "r", resume=True).step == 12


@pytest.fixture
def copied(run, tmp_path):
    """A run of one's own to change."""
    shutil.copytree(run, tmp_path / "copied")
    return tmp_path / "copied"


def test_the_best_checkpoint_can_be_asked_for(copied):
    (copied / "checkpoints" / "best.json").write_text(json.dumps({"step": 8, "val_loss": 2.5}))
    best, newest = gw.load(copied, best=True), gw.load(copied)
    wanted = load_file(copied / "checkpoints" / "step-8" / "model.safetensors")
    assert all(torch.equal(best.state_dict()[name], x) for name, x in wanted.items())
    assert not torch.equal(best.lm_head.weight, newest.lm_head.weight)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (None, r"has no best checkpoint: best\.json is not there; evaluate on the way \(train\.eval_every\)"),
        ("{}", r"best\.json is damaged and names no step; .* best=False"),
        ('{"step": 5, "val_loss": 1.0}', r"names step 5 as its best, and .*checkpoints lacks it; "),
    ],
)
def test_a_best_checkpoint_that_is_not_there(copied, written, words):
    (copied / "checkpoints" / "best.json").unlink(missing_ok=True)
    if written:
        (copied / "checkpoints" / "best.json").write_text(written)
    with pytest.raises(gw.CheckpointError, match=words) as error:
        gw.load(copied, best=True)
    assert "\n" not in str(error.value)


def test_the_best_of_one_checkpoint_is_no_question(run):
    with pytest.raises(gw.CheckpointError, match=r"step-12 is one checkpoint, and the best is one of a run"):
        gw.load(run / "checkpoints" / "step-12", best=True)


def test_averaged_weights_are_used_where_there_are_any(copied):
    newest = copied / "checkpoints" / "step-12"
    averaged = load_file(newest / "model.safetensors")["final_norm.weight"] * 2
    save_file({"final_norm.weight": averaged}, newest / "average.safetensors")  # only what trains has an average
    assert torch.equal(gw.load(copied).final_norm.weight, averaged)
    assert torch.equal(gw.load(copied, averaged=False).final_norm.weight, averaged / 2)
    assert torch.equal(gw.load(copied).lm_head.weight, gw.load(copied, averaged=False).lm_head.weight)
