"""Training that begins with another run: settings, tokenizer and weights come from there."""

import json
import shutil

import pytest
import torch

import gptwright as gw
from gptwright.cli.main import main
from gptwright.config.yaml import dump
from gptwright.errors import CheckpointError, ConfigError
from gptwright.train.settings import read_settings

from .. import tiny
from ..tiny import train


@pytest.fixture(scope="module")
def base(tmp_path_factory, book):
    folder = tmp_path_factory.mktemp("base") / "base"
    train(tiny.settings(book, {"model.position": "rotary"}), folder)
    return folder


@pytest.fixture
def tuning(base, book):
    """Return the settings of a fine-tuning run: no model, and no tokenizer."""

    def make(changes=None):
        found = tiny.settings(book, changes)
        found["data"].pop("tokenizer") if "data.tokenizer" not in (changes or {}) else None
        found["model"] = {key.removeprefix("model."): v for key, v in (changes or {}).items() if key[:6] == "model."}
        return {**found, "init_from": str(base)}

    return make


@pytest.fixture
def begun(tuning, tmp_path):
    train(tuning({"train.seed": 5}), tmp_path / "r")
    return tmp_path / "r"


def test_a_run_begins_with_the_weights_model_and_tokenizer_of_its_base(tuning, base, tmp_path, capsys):
    still = tuning({"train.steps": 1, "optim.lr": 1e-30, "optim.weight_decay": 0.0})
    train(still, tmp_path / "r")
    model, before = gw.load(tmp_path / "r"), gw.load(base)
    assert model.config == before.config
    assert model.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    first = tiny.metrics(tmp_path / "r")[0]
    assert (first["step"], first["tokens"]) == (1, 64)
    assert first["loss"] < tiny.metrics(base)[0]["loss"] - 0.2  # it goes on from there


def test_the_tokenizer_is_the_bases_for_other_text(tuning, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("mat log tree. " * 300)  # a char tokenizer of its own would know fewer characters
    result = train(tuning({"data.source": str(other)}), tmp_path / "r")
    assert result.step == 12
    assert gw.load(tmp_path / "r").config.vocab_size > len(set("mat log tree. ")) + 5


def test_a_tuning_run_continues_exactly_after_its_base_is_gone(tuning, base, tmp_path, begun):
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    settings = {**tuning({"train.seed": 5}), "init_from": str(moved)}
    file = tmp_path / "tune.yaml"
    file.write_text(dump(settings))
    tiny.train_until(6, settings, tmp_path / "s")
    for name in "tu":
        shutil.copytree(tmp_path / "s", tmp_path / name)
    shutil.rmtree(moved)
    train(None, tmp_path / "s", resume=True)
    tiny.assert_same_runs(begun, tmp_path / "s")
    assert gw.load(tmp_path / "s").settings.init_from == str(moved)
    assert main(["train", str(file), "--run", str(tmp_path / "t"), "--resume", "--quiet"]) == 0  # with its own settings
    tiny.assert_same_runs(begun, tmp_path / "t")
    train(settings, tmp_path / "u", resume=True)
    tiny.assert_same_runs(begun, tmp_path / "u")


def test_one_checkpoint_can_be_the_base_and_a_damaged_newest_one_is_passed_over(tuning, base, tmp_path):
    older = tuning({"train.steps": 1, "optim.lr": 1e-30, "optim.weight_decay": 0.0})
    train({**older, "init_from": str(base / "checkpoints" / "step-8")}, tmp_path / "a")
    copied = tmp_path / "copied"
    shutil.copytree(base, copied)
    weights = copied / "checkpoints" / "step-12" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"init_from: checkpoint .*step-12 is damaged: .* using step 8 instead"):
        train({**older, "init_from": str(copied)}, tmp_path / "b")
    assert tiny.metrics(tmp_path / "a")[0]["loss"] == tiny.metrics(tmp_path / "b")[0]["loss"]


def test_sources_say_what_comes_from_the_base(tuning, base, tmp_path, capsys):
    file = tmp_path / "tune.yaml"
    file.write_text(dump(tuning({"model.dropout": 0.3})))
    assert main(["config", "show", str(file), "--sources"]) == 0
    shown = capsys.readouterr().out
    assert "step-12/config.yaml:" in next(line for line in shown.splitlines() if "d_model" in line)
    assert "step-12/config.yaml:" in next(line for line in shown.splitlines() if "type: char" in line)
    assert "tune.yaml:" in next(line for line in shown.splitlines() if line.startswith("  dropout"))


@pytest.mark.parametrize(
    "change", [{"model.max_seq_len": 32}, {"model.dropout": 0.4, "model.position": {"theta": 5e4}}]
)
def test_what_changes_no_weight_may_change(tuning, change):
    model = read_settings(tuning(change)).config.model
    assert model.d_model == 16
    assert model.max_seq_len == change.get("model.max_seq_len", 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.d_model": 32}, r"^model\.d_model is 32, and in .*base it is 16: weights of one model mean nothing"),
        ({"model.attention": {"n_heads": 4}}, r"^model\.attention\.n_heads is 4, and in .* it is 2"),
        ({"model.position": "learned"}, r"^model\.position\.type is 'learned', and in .* it is 'rotary'"),
        ({"model.vocab_size": 99}, r"^model\.vocab_size is 99, and in .* it is \d+"),
        ({"model.wiring": "post"}, r"^model\.wiring is 'post'.*; leave model\.wiring out, or train from scratch"),
        (
            {"data.tokenizer": "byte"},
            r"^data\.tokenizer is .*'byte'.* was trained with .*'char'.*; leave data\.tokenizer",
        ),
    ],
)
def test_settings_of_another_model_are_refused(tuning, change, words):
    with pytest.raises(ConfigError, match=words) as error:
        read_settings(tuning(change))
    assert "\n" not in str(error.value)


def test_positions_that_are_learned_do_not_grow(book, tmp_path, tuning):
    train(tiny.settings(book, {"train.steps": 1}), tmp_path / "learned")
    with pytest.raises(
        ConfigError, match=r"max_seq_len is 32, .*: position\.weight would be \(32, 16\) and is \(16, 16\)"
    ):
        read_settings({**tuning({"model.max_seq_len": 32}), "init_from": str(tmp_path / "learned")})


def _damaged(folder):
    for file in folder.rglob("model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])


def _without_tokenizer(folder):
    for step in (folder / "checkpoints").glob("step-*"):
        shutil.rmtree(step / "tokenizer")
        manifest = json.loads((step / "manifest.json").read_text())
        kept = {name: facts for name, facts in manifest["files"].items() if not name.startswith("tokenizer/")}
        (step / "manifest.json").write_text(json.dumps({**manifest, "files": kept}))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (shutil.rmtree, r"^init_from: there is no folder .*; give a run folder"),
        (_damaged, r"^init_from: no checkpoint of .* is sound: .*model\.safetensors has"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), r"^init_from: .* holds no checkpoint yet"),
        (lambda folder: (folder / "config.yaml").unlink(), r"^init_from: .* is not a run"),
        (_without_tokenizer, r"^init_from: .* has no tokenizer, and without it"),
    ],
)
def test_a_base_that_cannot_be_used_is_one_sentence(tuning, base, tmp_path, harm, words):
    copied = tmp_path / "copied"
    shutil.copytree(base, copied)
    harm(copied)
    with pytest.raises(CheckpointError, match=words) as error:
        train({**tuning(), "init_from": str(copied)}, tmp_path / "r")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r").exists()


def test_what_is_no_path_is_refused():
    with pytest.raises(ConfigError, match="init_from is 3, and must be a run or checkpoint folder"):
        read_settings({"init_from": 3})


def test_code_that_a_base_names_needs_trust(tuning, book, tmp_path, monkeypatch):
    (tmp_path / "our_norm.py").write_text(
        "from gptwright.nn.norm.layer_norm import LayerNorm\n\nclass OurNorm(LayerNorm):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    train(tiny.settings(book, {"train.steps": 1, "model.norm": "our_norm:OurNorm"}), tmp_path / "own")
    settings = {**tuning(), "init_from": str(tmp_path / "own")}
    with pytest.raises(ConfigError, match=r"norm 'our_norm:OurNorm' would import code named by a saved folder"):
        read_settings(settings)
    (tmp_path / "tune.yaml").write_text(dump(settings))
    assert main(["train", "tune.yaml", "train.steps=1", "--quiet"]) == 2
    assert main(["train", "tune.yaml", "train.steps=1", "--quiet", "--trust-code"]) == 0
