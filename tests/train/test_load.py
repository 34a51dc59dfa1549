"""Reading a trained model back."""

import pytest
import torch

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
