"""Checkpoints: complete or absent, and a damaged one is named and never read."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import gptwright as gw
from gptwright.train import checkpoint

from .. import tiny
from ..tiny import assert_same_runs, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory, book):
    """A finished run with checkpoints at steps 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("finished") / "r"
    train(tiny.settings(book, {"train.keep_checkpoints": 3}), folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "r")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "truncated weights": (lambda c: truncate(c / "model.safetensors"), "model.safetensors has"),
    "a bit of the weights": (lambda c: flip(c / "model.safetensors"), "model.safetensors has sha256"),
    "a bit of the optimizer": (lambda c: flip(c / "optimizer.safetensors"), "optimizer.safetensors has sha256"),
    "random state missing": (lambda c: (c / "random.safetensors").unlink(), "random.safetensors is missing"),
    "settings edited": (lambda c: flip(c / "config.yaml"), "config.yaml has sha256"),
    "tokenizer missing": (lambda c: shutil.rmtree(c / "tokenizer"), "is missing"),
    "manifest torn": (lambda c: truncate(c / "manifest.json"), "manifest.json cannot be read"),
    "manifest empty": (lambda c: (c / "manifest.json").write_text("{}"), "manifest.json cannot be read"),
    "manifest of something else": (lambda c: (c / "manifest.json").write_text("[1]"), "manifest.json cannot be read"),
    "manifest missing": (lambda c: (c / "manifest.json").unlink(), "has no manifest.json"),
}
every_damage = pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)


@every_damage
def test_a_damaged_newest_checkpoint_is_named_skipped_and_replaced(run, finished, capsys, damage, words):
    damage(run / "checkpoints" / "step-12")
    done = train(None, run, resume=True)
    warned = capsys.readouterr().err
    assert words in warned
    assert "step-12" in warned
    assert "going back to step 8" in warned
    assert done.step == 12
    assert_same_runs(finished, run)
    assert checkpoint.verify(run / "checkpoints" / "step-12").step == 12


@every_damage
def test_a_damaged_checkpoint_is_named_when_a_model_is_loaded(run, damage, words):
    damage(run / "checkpoints" / "step-12")
    with pytest.warns(UserWarning, match=words) as warned:
        model = gw.load(run)
    assert "using step 8 instead" in str(warned[0].message)
    assert torch.equal(model.lm_head.weight, gw.load(run / "checkpoints" / "step-8").lm_head.weight)
    with pytest.raises(gw.CheckpointError, match="step-12"):
        gw.load(run / "checkpoints" / "step-12")


def test_when_all_are_damaged_each_is_named(run):
    for step in (4, 8, 12):
        flip(run / "checkpoints" / f"step-{step}" / "model.safetensors")
    for attempt in (lambda: gw.load(run), lambda: train(None, run, resume=True)):
        with pytest.raises(gw.CheckpointError) as refused:
            attempt()
        said = str(refused.value)
        assert said.startswith(f"no checkpoint of {run} is sound: ")
        assert all(f"step-{step} is damaged: model.safetensors has sha256" in said for step in (4, 8, 12))
    assert tiny.checkpoints(run) == [4, 8, 12]


def test_a_damaged_checkpoint_of_the_future_never_costs_a_sound_one(run):
    """Only one is kept, and the damaged one has the higher number: the one just saved must stay."""
    flip(run / "checkpoints" / "step-12" / "model.safetensors")
    flip(run / "checkpoints" / "step-8" / "model.safetensors")
    changes = {"train.keep_checkpoints": 1, "train.checkpoint_every": 1, "train.steps": 6}
    assert train(None, run, overrides=changes, resume=True).step == 6
    assert tiny.checkpoints(run) == [6]
    assert gw.load(run).tokenizer is not None


def test_what_a_killed_save_left_behind_is_ignored_and_swept(run):
    left = run / "checkpoints" / ".step-14.partial-999"
    shutil.copytree(run / "checkpoints" / "step-12", left)
    assert train(None, run, resume=True).step == 12
    train(None, run, overrides={"train.steps": 13}, resume=True)
    assert not left.exists()


def test_only_the_latest_are_kept(settings, tmp_path):
    train(settings({"train.checkpoint_every": 2, "train.keep_checkpoints": 3}), tmp_path / "r")
    assert tiny.checkpoints(tmp_path / "r") == [8, 10, 12]


def test_a_checkpoint_lists_every_file_with_its_hash(run):
    folder = run / "checkpoints" / "step-12"
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json"}
    assert {"model.safetensors", "optimizer.safetensors", "state.json", "config.yaml"} < files
    assert manifest["step"] == 12


def test_parts_that_do_not_fit_are_named(run, settings):
    found = checkpoint.verify(run / "checkpoints" / "step-12")
    other = gw.GPT(gw.RunConfig.from_dict(settings({"model.n_layers": 1, "model.vocab_size": 25})).model)
    with pytest.raises(gw.CheckpointError, match=r"does not fit the model: layers\.1\..* absent here"):
        found.restore_weights(other)


def test_names_in_a_checkpoint_are_those_of_the_vocabulary(run):
    names = set(checkpoint.verify(run / "checkpoints" / "step-12").weights())
    assert {"token_embedding.weight", "position.weight", "final_norm.weight"} < names
    assert {f"layers.1.attention.{p}_proj.weight" for p in "qkvo"} < names
    assert "lm_head.weight" not in names  # it is the token embedding
