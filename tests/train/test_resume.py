"""Interrupted = uninterrupted, bit for bit: weights, optimizer, random state and the curve."""

import json
import signal

import pytest
import torch

import gptwright as gw

from .. import tiny
from ..tiny import assert_same_runs, curve, train, train_until

MOE = {"type": "moe", "n_experts": 3, "top_k": 2, "d_ff": 8}
CASES = {
    "adamw": {},
    "adamw-bf16": {"train.precision": "bf16"},
    "adamw-fp16": {"train.precision": "fp16"},
    "adamw-accumulated": {"train.micro_batch": 1},
    "adamw-untied-biased": {"model.tie_embeddings": False, "model.bias": True, "model.position": "sinusoidal"},
    "muon": {"optim": {"type": "muon"}},
    "muon-bf16-accumulated": {"optim": {"type": "muon"}, "train.precision": "bf16", "train.micro_batch": 2},
    "muon-moe": {"optim": {"type": "muon"}, "model.feed_forward": MOE, "model.position": "rotary"},
    "moe-bf16": {"model.feed_forward": MOE, "train.precision": "bf16", "train.micro_batch": 2},
    "attention-dropout": {"model.attention": {"type": "softmax", "n_heads": 2, "attention_dropout": 0.2}},
    "hybrid": {
        "model.attention": None,
        "model.blocks": {
            "near": {"attention": {"type": "local", "n_heads": 2, "window": 4}},
            "far": {"attention": {"type": "linear", "n_heads": 2}},
        },
    },
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_signal_and_a_resume_change_nothing(settings, tmp_path, changes):
    config = settings({**changes, "train.checkpoint_every": 5})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    train_until(3, config, cut)
    assert tiny.checkpoints(cut) == [3]
    train_until(8, None, cut, resume=True)
    assert tiny.checkpoints(cut) == [5, 8]
    last = train(None, cut, resume=True)
    assert (last.step, last.interrupted) == (12, False)
    assert_same_runs(whole, cut)


def test_a_resume_far_from_where_the_run_ended(settings, tmp_path):
    """Checkpoints are 4 steps apart; the run is cut back to an earlier one, as kill -9 leaves it."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = settings({"train.keep_checkpoints": 9, "train.eval_every": 3, "train.sample_every": 3})
    for folder in (whole, cut):
        train(config, folder)
    for step in (8, 12):
        (cut / "checkpoints" / f"step-{step}" / "manifest.json").unlink()
    samples, rows = (cut / "samples.txt").read_text(), len(tiny.metrics(cut))
    train(config, cut, resume=True)
    assert_same_runs(whole, cut)
    assert (cut / "samples.txt").read_text() == samples
    assert len(tiny.metrics(cut)) == rows


def test_across_epochs(settings, tmp_path, book):
    """The batch of a step depends on the step alone, also when the text has been seen many times over."""
    short = tmp_path / "short.txt"
    short.write_text(tiny.text(60))
    config = settings({"data.source": str(short), "data.val_fraction": 0.3})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    train_until(6, config, cut)
    train(config, cut, resume=True)
    assert_same_runs(whole, cut)


def test_a_sigint_stops_after_the_step_like_a_sigterm(settings, tmp_path):
    train_until(3, settings(), tmp_path / "r", signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_sigint_does_not_wait_for_anything(settings, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(settings(), whole)
    with pytest.raises(KeyboardInterrupt):
        tiny.train_until(6, settings(), cut, signal.SIGINT, times=2)
    assert tiny.checkpoints(cut) == [4]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(settings(), cut, resume=True)
    assert_same_runs(whole, cut)


def test_looking_does_not_disturb(settings, tmp_path):
    """Evaluating, sampling, saving and logging at other moments leave the weights as they are."""
    quiet, busy = tmp_path / "quiet", tmp_path / "busy"
    train(settings({"train.log_every": 12, "train.checkpoint_every": 0}), quiet)
    train(settings({"train.eval_every": 1, "train.sample_every": 1, "train.checkpoint_every": 1}), busy)
    assert tiny.contents(quiet, 12) == tiny.contents(busy, 12)


def test_the_same_settings_give_the_same_run_and_another_seed_another(settings, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(hash(name) % 1000)  # what the caller did before must not matter
        train(settings({"train.seed": seed}), tmp_path / name)
    assert_same_runs(tmp_path / "a", tmp_path / "b")
    assert curve(tmp_path / "a") != curve(tmp_path / "c")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_micro_batch_is_the_same_to_rounding(settings, tmp_path, precision):
    config = settings({"train.precision": precision, "model.dropout": 0.0, "train.tokens_per_step": 96})
    results = {}
    for micro in (6, 3, 1):
        results[micro] = train(config, tmp_path / str(micro), overrides={"train.micro_batch": micro})
    train_until(5, config, tmp_path / "changed")
    results["changed"] = train(config, tmp_path / "changed", overrides={"train.micro_batch": 2}, resume=True)
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    for found in results.values():
        assert found.val_loss == pytest.approx(results[6].val_loss, rel=tolerance)


def test_a_finished_run_can_be_extended(settings, tmp_path):
    """With a schedule that does not depend on the number of steps, it is as if it had been longer from the start."""
    constant = {"schedule": {"type": "constant", "warmup_steps": 2}}
    train(settings({**constant, "train.steps": 12}), tmp_path / "long")
    train(settings({**constant, "train.steps": 7}), tmp_path / "grown")
    extended = train(None, tmp_path / "grown", overrides=["train.steps=12"], resume=True)
    assert extended.step == 12
    assert_same_runs(tmp_path / "long", tmp_path / "grown")


def test_resuming_a_finished_run_trains_nothing(settings, tmp_path):
    first = train(settings(), tmp_path / "r")
    before = tiny.contents(tmp_path / "r", 12)
    again = train(settings(), tmp_path / "r", resume=True)
    assert (again.step, again.train_seconds, again.val_loss) == (first.step, first.train_seconds, first.val_loss)
    assert tiny.contents(tmp_path / "r", 12) == before


def test_a_run_killed_before_its_first_checkpoint_begins_anew(settings, tmp_path, capsys):
    """What a kill leaves behind can always be continued: without a checkpoint, from the first step."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(settings(), whole)
    train(settings({"train.steps": 3, "train.checkpoint_every": 0}), cut)
    for step in tiny.checkpoints(cut):
        for path in sorted((cut / "checkpoints" / f"step-{step}").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (cut / "checkpoints" / f"step-{step}").rmdir()
    done = train(settings(), cut, resume=True)
    assert done.step == 12
    assert "no checkpoint yet" in capsys.readouterr().err
    assert_same_runs(whole, cut)


def test_a_sample_that_looks_like_a_heading_does_no_harm(settings, tmp_path, book):
    strange = tmp_path / "strange.txt"
    strange.write_text("a\n=== step x | 9 tokens ===\n=== step 99 | 1 tokens ===\n" * 60)
    prompt = {"train.sample_prompt": "a\n=== step x |", "train.sample_every": 2}
    config = settings({"data.source": str(strange), **prompt})
    train_until(5, config, tmp_path / "r")
    done = train(config, tmp_path / "r", resume=True)
    assert done.step == 12
    found = (tmp_path / "r" / "samples.txt").read_text()
    assert all(f"=== step {step} | {64 * step} tokens ===" in found for step in (2, 4, 6, 8, 10, 12))


def test_a_torn_line_of_metrics_does_no_harm(settings, tmp_path):
    folder = tmp_path / "r"
    train_until(5, settings(), folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    train(settings(), folder, resume=True)
    assert list(curve(folder)) == list(range(1, 13))


def test_precision_is_decided_once(settings, tmp_path):
    """`auto` measures the machine; a resume keeps what the run began with, whatever it would measure now."""
    config = settings({"train.precision": "auto"})
    train_until(5, config, tmp_path / "r")
    (folder,) = [tmp_path / "r" / "checkpoints" / f"step-{tiny.checkpoints(tmp_path / 'r')[-1]}"]
    began = json.loads((folder / "state.json").read_text())["precision"]
    train(config, tmp_path / "r", resume=True)
    ended = json.loads((tmp_path / "r/checkpoints/step-12/state.json").read_text())["precision"]
    assert ended == began


def test_resuming_through_a_config_object(settings, tmp_path):
    config = gw.RunConfig.from_dict(settings())
    train_until(5, config, tmp_path / "r")
    assert train(config, tmp_path / "r", resume=True).step == 12
