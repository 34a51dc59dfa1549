"""Going on: what may change by itself, what only on purpose, and what a run of an older version looks like."""

import hashlib
import json

import pytest

import gptwright as gw
from gptwright.config.yaml import Source, dump, parse

from .. import tiny
from ..tiny import curve, train


def test_settings_that_did_not_exist_then_count_as_their_defaults(run):
    path = run / "config.yaml"
    node = parse(path.read_text(), Source(str(path)))
    assert node is not None
    old = node.plain()
    for key in ("z_loss", "average", "batch_ramp", "skip_limit", "callbacks"):
        del old["train"][key]
    path.write_text(dump(old))
    assert train(None, run, resume=True).step == 12


def test_another_learning_rate_on_purpose_takes_effect_at_once(run):
    train(None, run, resume_with={"optim.lr": 0.001})
    rows = curve(run)
    assert rows[6]["lr"] < 0.2 * rows[5]["lr"]
    assert gw.load(run).settings.optim.lr == 0.001
    train(None, run, resume=True)  # from now on it is the run's own


@pytest.mark.parametrize(
    "changes",
    [
        {"train.seed": 7},
        {"train.tokens_per_step": 128, "train.micro_batch": 4},
        {"optim": {"type": "muon"}},
        {"optim.groups": [{"match": "layers.0", "lr_scale": 0.5}]},
        {"train.freeze": ["token_embedding"]},
        {"schedule": {"type": "constant"}},
        {"train.precision": "bf16"},
        {"model.dropout": 0.0},
        {"train.average": {"over": "ema"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_changes_on_purpose_goes_on(run, changes):
    with pytest.raises(gw.ConfigError, match="change them on purpose with --resume-with"):
        train(None, run, overrides=changes, resume=True)
    done = train(None, run, resume_with=changes)
    assert done.step == 12
    assert list(curve(run)) == list(range(1, 13))


def test_another_batch_takes_the_next_rows(run):
    train(None, run, resume_with={"train.tokens_per_step": 128, "train.steps": 8})
    epochs = {step: row["epoch"] for step, row in curve(run).items()}
    assert epochs[6] - epochs[5] == pytest.approx(2 * (epochs[5] - epochs[4]))


def test_other_shapes_are_refused_also_on_purpose(run):
    before = tiny.contents(run, 5)
    with pytest.raises(gw.CheckpointError, match=r"does not fit the model: .* is \(.*\) there and \(.*\) here"):
        train(None, run, resume_with={"model.d_model": 32})
    assert tiny.contents(run, 5) == before


def test_only_what_is_named_may_change(settings, run):
    config = settings({"optim.lr": 0.5, "train.seed": 3})
    with pytest.raises(gw.ConfigError, match=r"train.seed was 0 and is now 3; resume"):
        train(config, run, resume_with={"optim.lr": 0.5})


def test_strings_and_mappings_do_not_mix(settings, tmp_path):
    with pytest.raises(gw.GptwrightError, match="both be key=value strings, or both mappings"):
        train(settings(), tmp_path / "r", overrides=["train.steps=3"], resume_with={"train.seed": 3})


def test_a_checkpoint_of_an_earlier_version_is_named_with_a_way_out(run):
    folder = run / "checkpoints" / "step-5"
    state = json.loads((folder / "state.json").read_text())
    del state["plan"]
    (folder / "state.json").write_text(json.dumps(state))
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / "state.json").read_bytes()
    manifest["files"]["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(gw.CheckpointError, match=r"was written by an earlier version.*in a new run with init_from="):
        train(None, run, resume=True)
    assert gw.load(run).num_params() > 0
