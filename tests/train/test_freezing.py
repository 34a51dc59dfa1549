"""Runs in which a part of the weights is frozen."""

import pytest
import torch
from safetensors.torch import load_file

import gptwright as gw
from gptwright.model.freeze import freeze as freeze_by
from gptwright.model.freeze import unfreeze as unfreeze_by
from gptwright.train.working import WorkingCopy

from .. import tiny
from ..tiny import train, train_until

MOE = {"type": "moe", "n_experts": 3, "top_k": 2, "d_ff": 8}
CASES = {
    "adamw-fp32": {},
    "adamw-bf16": {"train.precision": "bf16"},
    "muon-fp32": {"optim": {"type": "muon"}},
    "muon-bf16-moe": {"optim": {"type": "muon"}, "train.precision": "bf16", "model.feed_forward": MOE},
}
PATTERNS = {
    "tied head": (["lm_head"], []),
    "a layer and the norms": (["layers.0", "*norm*"], []),
    "all but a part": (["*"], ["layers.1.feed_forward"]),
    "all but the vectors": (["*"], ["*norm*"]),
}


def weights(folder, step: int):
    return load_file(folder / "checkpoints" / f"step-{step}" / "model.safetensors")


@pytest.mark.parametrize(("freeze", "unfreeze"), PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_frozen_weights_keep_their_bits_and_the_others_move(settings, tmp_path, changes, freeze, unfreeze):
    patterns = {"train.freeze": freeze, "train.unfreeze": unfreeze}
    config = settings(
        {**changes, **patterns, "train.steps": 4, "train.checkpoint_every": 1, "train.keep_checkpoints": 9}
    )
    train(config, tmp_path / "r")
    early, late = weights(tmp_path / "r", 1), weights(tmp_path / "r", 4)
    model = gw.load(tmp_path / "r")
    freeze_by(model, *freeze)
    unfreeze_by(model, *unfreeze) if unfreeze else None
    names = {name: p.requires_grad for name, p in model.named_parameters()}
    assert 0 < sum(names.values()) < len(names)
    moved = {name for name in names if not early[name].equal(late[name])}
    assert moved == {name for name, trains in names.items() if trains}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_resume_changes_nothing(settings, tmp_path, changes):
    config = settings({**changes, "train.freeze": ["token_embedding", "layers.0.attention", "*norm*"]})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    train_until(6, config, cut)
    train(None, cut, resume=True)
    tiny.assert_same_runs(whole, cut)


def test_the_table_is_shown_at_the_start_of_the_run_and_only_where_something_is_frozen(settings, tmp_path, capsys):
    gw.train(settings({"train.freeze": ["layers.0"], "train.steps": 1}), run=tmp_path / "a")
    shown = capsys.readouterr().err.splitlines()
    table = [line.split() for line in shown[: next(n for n, line in enumerate(shown) if line.startswith("step "))]]
    assert ["layers.0.attention", "1,024", "frozen"] in table
    assert ["layers.1.attention", "1,024", "trains"] in table
    assert any(line[0] == "total" and line[-2:] == ["are", "frozen"] for line in table if line)
    gw.train(settings({"train.steps": 1}), run=tmp_path / "b")
    assert "frozen" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"train.freeze": ["layers.0", "*.atention.*"]},
            "train.freeze names '*.atention.*', which matches no parameter; names look like "
            "'layers.0.attention.q_proj.weight'; did you mean '*.attention.*'?",
        ),
        ({"train.unfreeze": ["lmhead"]}, "did you mean 'lm_head'?"),
        ({"train.freeze": ["*"]}, "train.freeze ['*'] leaves none of the "),
        ({"model.init": {"overrides": {"*.q_prj.*": "zeros"}}}, "did you mean '*.q_proj.*'?"),
    ],
)
def test_a_mistake_is_found_before_any_work(settings, tmp_path, changes, sentence):
    missing = {"data.source": str(tmp_path / "not yet there.txt")}
    with pytest.raises(gw.ConfigError) as error:
        train(settings({**changes, **missing}), tmp_path / "r")
    assert sentence in str(error.value)
    assert not (tmp_path / "r").exists()


def test_a_run_is_not_resumed_with_other_frozen_parts(settings, tmp_path):
    train_until(5, settings(), tmp_path / "r")
    with pytest.raises(gw.ConfigError, match=r"train\.freeze was \[\] and is now \['layers\.0'\]"):
        train(settings({"train.freeze": ["layers.0"]}), tmp_path / "r", resume=True)


def test_a_working_copy_takes_over_frozen_weights_after_loading():
    config = {
        "vocab_size": 5,
        "d_model": 8,
        "n_layers": 1,
        "max_seq_len": 4,
        "attention": {"type": "softmax", "n_heads": 2},
    }
    model = gw.GPT(gw.ModelConfig.from_dict(config))
    gw.freeze(model, "layers")
    working = WorkingCopy(model, torch.bfloat16)
    with torch.no_grad():
        model.layers[0].attention.q_proj.weight.fill_(0.5)
    working.refresh()
    assert not working.model.layers[0].attention.q_proj.weight.eq(0.5).any()
    working.refresh(everything=True)
    assert working.model.layers[0].attention.q_proj.weight.eq(0.5).all()
