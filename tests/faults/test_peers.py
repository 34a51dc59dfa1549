"""Mistakes that trainers are known for when runs are interrupted, replayed here.

Each test tells first what went wrong elsewhere. A run with a learning rate of nearly nothing is a good witness: its
weights stay as they are, so the loss of a step says which tokens that step saw, and nothing else.
"""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import gptwright as gw
from gptwright.ops.loss import IGNORE
from gptwright.ops.precision import Precision
from gptwright.train.config import RunConfig
from gptwright.train.data import RunData
from gptwright.train.settings import read_settings
from gptwright.train.step import Stepper

from .. import tiny
from ..tiny import train, train_until

STILL = {
    "optim.lr": 1e-30,
    "optim.weight_decay": 0.0,
    "model.dropout": 0.0,
    "train.tokens_per_step": 32,
    "train.checkpoint_every": 0,
}
"""Weights stay as they are, and two rows are a step."""


@pytest.fixture(scope="module")
def leaflet(tmp_path_factory):
    """A text of a few rows, so that a run of 12 steps sees it more than twice."""
    path = tmp_path_factory.mktemp("text") / "leaflet.txt"
    path.write_text(tiny.text(42), "utf-8")
    return path


def losses(folder):
    return [row["loss"] for row in tiny.curve(folder).values()]


def cut_at(steps, config, folder, **how):
    """Train to the end, with an interruption at each of ``steps``."""
    for number, step in enumerate(steps):
        train_until(step, None if number else config, folder, resume=number > 0, **how)
    return train(None, folder, resume=True)


@pytest.mark.parametrize("steps", [[3], [4, 5], [9]], ids=str)
def test_batches_are_not_seen_again_after_a_resume(leaflet, tmp_path, steps):
    """The loader began anew: the first batches were learnt twice, those at the end of the epoch never."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(tiny.settings(leaflet, STILL), whole)
    cut_at(steps, tiny.settings(leaflet, STILL), cut)
    assert losses(cut) == losses(whole)
    assert len(set(losses(whole))) == 12  # each step has a batch of its own, so that a repetition would show


def test_an_order_does_not_begin_anew_with_each_epoch(leaflet, tmp_path):
    """After a resume in a later epoch the sampler drew the first epoch's order, having forgotten the epoch."""
    settings = tiny.settings(leaflet, {**STILL, "train.tokens_per_step": 16, "train.steps": 40})
    train(settings, tmp_path / "whole")
    train_until(30, settings, tmp_path / "cut")
    train(None, tmp_path / "cut", resume=True)
    seen, rows = losses(tmp_path / "whole"), _rows_per_epoch(tmp_path / "whole")
    assert rows < 15
    first, second, third = (seen[start : start + rows] for start in (0, rows, 2 * rows))
    assert first != second != third != first
    assert losses(tmp_path / "cut") == seen


def _rows_per_epoch(folder):
    return _data(folder).rows_per_epoch


def _data(folder):
    return RunData.open(read_settings(folder / "config.yaml").config, torch.device("cpu"))


def test_no_epoch_is_skipped_at_its_boundary(leaflet, tmp_path):
    """A checkpoint at the very end of an epoch was taken for one of the next epoch's end: an epoch went missing."""
    settings = tiny.settings(leaflet, {**STILL, "train.tokens_per_step": 16, "train.steps": 30})
    whole = train(settings, tmp_path / "whole")
    rows = _rows_per_epoch(tmp_path / "whole")
    result = cut_at([rows, 2 * rows], settings, tmp_path / "cut")
    assert (result.step, result.tokens) == (30, whole.tokens)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_dropout_goes_on_where_it_was(book, tmp_path):
    """The generator began at the seed again: the masks of the first steps came back."""
    still = {**STILL, "model.dropout": 0.3, "train.steps": 8}
    train(tiny.settings(book, still), tmp_path / "whole")
    train(tiny.settings(book, {**still, "model.dropout": 0.0}), tmp_path / "without")
    cut_at([4], tiny.settings(book, still), tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert losses(tmp_path / "cut")[4:] != losses(tmp_path / "without")[4:]


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "wsd", "linear"])
def test_the_learning_rate_does_not_begin_anew(book, tmp_path, schedule):
    """Warm-up came a second time, or the schedule stood one step beside itself after every resume."""
    settings = tiny.settings(book, {"schedule": {"type": schedule}, "train.steps": 10})
    cut_at([2, 3, 7], settings, tmp_path / "cut")
    config = RunConfig.from_dict(settings)
    wanted = [0.01 * config.build_schedule().scale(step) for step in range(10)]
    assert [row["lr"] for row in tiny.curve(tmp_path / "cut").values()] == pytest.approx(wanted, rel=1e-12)


def test_the_learning_rate_moves_with_steps_and_not_with_micro_batches(book, tmp_path):
    """The schedule moved once a micro-batch: it was over when a quarter of the training was done."""
    rates = []
    for rows in (1, 4):
        train(tiny.settings(book, {"train.micro_batch": rows}), tmp_path / str(rows))
        rates.append([row["lr"] for row in tiny.curve(tmp_path / str(rows)).values()])
    assert rates[0] == rates[1]


@pytest.mark.parametrize("optim", ["adamw", "muon", "lion", "sgd"])
def test_the_optimizer_remembers(book, tmp_path, optim):
    """Moments were zero after a resume, or belonged to other parameters: a bump in the curve, or a slow decline."""
    settings = tiny.settings(book, {"optim": {"type": optim, "lr": 0.01}, "train.steps": 8})
    train(settings, tmp_path / "whole")
    cut_at([3, 6], settings, tmp_path / "cut")
    tiny.assert_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_the_loss_scale_is_remembered(book, tmp_path):
    """The scaler's own count began anew, so its scale grew later than without the interruption."""
    settings = tiny.settings(book, {"train.precision": "fp16", "train.steps": 8})
    cut_at([3], settings, tmp_path / "cut")
    state = json.loads((tmp_path / "cut" / "checkpoints" / "step-8" / "state.json").read_text())
    rows = tiny.curve(tmp_path / "cut").values()
    assert state["scaler"]["_growth_tracker"] == 8 - max(row["skipped_steps"] for row in rows) > 3


def stepper(**train_settings):
    """Return a stepper of a small model, and that model as it was."""
    model = {
        "d_model": 16,
        "n_layers": 1,
        "vocab_size": 20,
        "max_seq_len": 8,
        "attention": {"type": "softmax", "n_heads": 2},
    }
    config = RunConfig.from_dict(
        {"model": model, "optim": {"type": "sgd", "lr": 0.1}, "train": {"clip": 0.0, **train_settings}}
    )
    torch.manual_seed(0)
    found = gw.GPT(config.model)
    precision = Precision("fp32", torch.float32, "highest", "asked for")
    return Stepper(
        found, config.build_optimizer(found, precision), config.build_schedule(), config.train, precision
    ), found


@pytest.fixture
def uneven():
    """A batch (4, 8) whose rows have 8, 1, 5 and 0 tokens to predict."""
    ids = torch.randint(20, (4, 8), generator=torch.Generator().manual_seed(1))
    targets = ids.roll(-1, 1)
    for row, wanted in enumerate((8, 1, 5, 0)):
        targets[row, wanted:] = IGNORE
    return ids, targets


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_accumulation_counts_tokens_and_not_micro_batches(uneven, rows):
    """The means of micro-batches were averaged: a row with one token weighed as much as a row with a thousand."""
    ids, targets = uneven
    worker, model = stepper(micro_batch=rows)
    expected = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    grads = torch.autograd.grad(expected, [p for p in model.parameters() if p.requires_grad])
    result = worker.step(0, ids, targets)
    assert result.loss == pytest.approx(float(expected.detach()), rel=1e-5)  # and padding is no part of the mean
    norm = torch.stack([grad.norm() for grad in grads]).norm()
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)


def test_padding_does_not_dilute_the_loss(uneven):
    """The loss was divided by all positions: the more padding, the smaller the steps."""
    ids, targets = uneven
    cut = stepper()[0].step(0, ids[:1], targets[:1])
    padded_ids = torch.cat((ids[:1], torch.zeros(1, 8, dtype=torch.int64)))
    padded_targets = torch.cat((targets[:1], torch.full((1, 8), IGNORE)))
    padded = stepper()[0].step(0, padded_ids, padded_targets)
    assert padded.loss == pytest.approx(cut.loss, rel=1e-6)
    assert padded.grad_norm == pytest.approx(cut.grad_norm, rel=1e-5)


def test_a_batch_of_nothing_but_padding_is_no_nan(uneven):
    """Nothing to predict in a step gave 0 / 0, and NaN in every weight."""
    ids, targets = uneven
    worker, model = stepper()
    result = worker.step(0, ids, torch.full_like(targets, IGNORE))
    assert result.loss == 0
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("over", ["ema", "tail"])
def test_the_average_goes_on(book, tmp_path, over):
    """The average was made before the weights were restored, so it began with random ones, or anew from the present."""
    average = {"over": over, **({"fraction": 0.7} if over == "tail" else {"decay": 0.9})}
    settings = tiny.settings(book, {"train.average": average, "train.eval_every": 3, "train.steps": 10})
    train(settings, tmp_path / "whole")
    cut_at([2, 5, 7], settings, tmp_path / "cut")
    one, other = (gw.load(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    scores = [
        {row["step"]: row["val_loss"] for row in tiny.metrics(tmp_path / name) if "val_loss" in row}
        for name in ("whole", "cut")
    ]
    assert scores[0] == scores[1]
    as_trained = gw.load(tmp_path / "cut", averaged=False).state_dict()
    assert any(not torch.equal(one[name], as_trained[name]) for name in one)


def test_every_token_of_an_epoch_is_learnt_and_counted(leaflet, tmp_path):
    """Rows left over at the end of an epoch were dropped, or made a step of fewer tokens that counted in full."""
    settings = tiny.settings(leaflet, {**STILL, "train.tokens_per_step": 16, "train.steps": 30})
    cut_at([5, 16], settings, tmp_path / "cut")
    rows, data = _rows_per_epoch(tmp_path / "cut"), _data(tmp_path / "cut")
    counted = [0, *(row["tokens"] for row in tiny.curve(tmp_path / "cut").values())]
    wanted = [int(data.batch(row, 1).wanted()) for row in range(30)]
    assert [after - before for before, after in itertools.pairwise(counted)] == wanted
    assert sum(wanted[:rows]) == sum(wanted[rows : 2 * rows])
    assert sum(wanted[:rows]) > len(data.prepared.split("train")) - 17


@pytest.mark.parametrize("cuts", [[4], [6, 8]], ids=str)
def test_the_best_score_and_patience_are_remembered(book, tmp_path, cuts):
    """After a resume any score was the best so far, and who waited for early stopping waited from the beginning."""
    changes = {
        "train.eval_every": 2,
        "train.steps": 60,
        "train.callbacks": [{"type": "early_stopping", "patience": 4}],
    }
    settings = tiny.settings(book, {**STILL, **changes})
    whole = train(settings, tmp_path / "whole")
    cut = cut_at(cuts, settings, tmp_path / "cut")
    assert whole.step == 10  # the first evaluation is the best, and four do not help
    assert (cut.step, cut.best_step, cut.best_val_loss) == (10, whole.best_step, whole.best_val_loss)
    best = [(tmp_path / name / "checkpoints" / "best.json").read_text() for name in ("whole", "cut")]
    assert best[0] == best[1]


def test_steps_are_counted_once(book, tmp_path):
    """After a resume the counter stood one beside the optimizer's, and a step was logged twice or never."""
    cut_at([1, 2, 11], tiny.settings(book), tmp_path / "cut")
    rows = tiny.curve(tmp_path / "cut")
    assert list(rows) == list(range(1, 13))
    assert [row["tokens"] for row in rows.values()] == [64 * step for step in range(1, 13)]
    last = load_file(tmp_path / "cut" / "checkpoints" / "step-12" / "optimizer.safetensors")
    assert {int(x) for name, x in last.items() if name.endswith(".step")} == {12}


def test_what_experts_count_is_remembered(book, tmp_path):
    """What a router learns without gradients lived outside of what checkpoints hold."""
    moe = {"type": "moe", "n_experts": 3, "d_ff": 8, "balance": "bias", "balance_rate": 0.1}
    settings = tiny.settings(book, {"model.feed_forward": moe, "train.steps": 8})
    train(settings, tmp_path / "whole")
    cut_at([5], settings, tmp_path / "cut")
    tiny.assert_same_runs(tmp_path / "whole", tmp_path / "cut")
    saved = gw.load(tmp_path / "cut").state_dict()
    assert all(bool(saved[f"layers.{layer}.feed_forward.expert_bias"].any()) for layer in (0, 1))


def test_a_finished_run_stays_as_it_is(book, tmp_path):
    """A run that was resumed after its end trained on, began anew, or wrote its last lines once more."""
    settings = tiny.settings(book, {"train.eval_every": 5, "train.sample_every": 5})
    train(settings, tmp_path / "r")
    before = [(tmp_path / "r" / name).read_text() for name in ("metrics.jsonl", "samples.txt")]
    saved = tiny.contents(tmp_path / "r", 12)
    assert train(None, tmp_path / "r", resume=True).step == 12
    assert [(tmp_path / "r" / name).read_text() for name in ("metrics.jsonl", "samples.txt")] == before
    assert tiny.contents(tmp_path / "r", 12) == saved
