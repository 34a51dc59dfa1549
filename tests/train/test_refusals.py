"""What cannot be trained or continued is refused in a sentence, and nothing is lost."""

import pytest

import gptwright as gw

from .. import tiny
from ..tiny import train, train_until


def refused(kind: type[Exception], config, folder, **how) -> str:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} if folder.is_dir() else {}
    with pytest.raises(kind) as error:
        train(config, folder, **how)
    assert all(path.read_bytes() == content for path, content in before.items())
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.seed": 4}, ["train.seed was 0 and is now 4"]),
        ({"model.dropout": 0.2}, ["model.dropout was 0.1 and is now 0.2"]),
        ({"optim.lr": 0.02, "model.d_model": 32}, ["optim.lr was 0.01 and is now 0.02", "model.d_model was 16"]),
        ({"train.precision": "bf16"}, ["train.precision was 'fp32' and is now 'bf16'"]),
        ({"train.tokens_per_step": 32}, ["train.tokens_per_step was 64 and is now 32"]),
        ({"model.attention": {"type": "linear", "n_heads": 2}}, ["model.attention.type was 'softmax'", "'linear'"]),
        ({"optim": {"type": "muon"}}, ["optim.type was 'adamw' and is now 'muon'"]),
        ({"schedule": {"type": "constant"}}, ["schedule.type was 'cosine' and is now 'constant'"]),
    ],
)
def test_other_settings_are_named(settings, run, changes, words):
    said = refused(gw.ConfigError, settings(changes), run, resume=True)
    assert all(word in said for word in words)
    assert "resume with the settings that it began with, change them on purpose with --resume-with" in said


def test_settings_that_touch_nothing_learnt_may_change(run):
    free = {"log_every": 2, "eval_every": 5, "sample_every": 7, "sample_tokens": 3, "keep_checkpoints": 1}
    done = train(None, run, overrides={f"train.{key}": value for key, value in free.items()}, resume=True)
    assert done.step == 12
    assert tiny.checkpoints(run) == [12]


def test_text_that_has_changed(tmp_path, book):
    mine = tmp_path / "mine.txt"
    mine.write_text(book.read_text())
    config = tiny.settings(mine)
    train_until(5, config, tmp_path / "r")
    mine.write_text(book.read_text().replace("cat", "tac"))
    said = refused(gw.CheckpointError, config, tmp_path / "r", resume=True)
    assert "was trained on data with fingerprint" in said
    assert "the text has changed" in said
    mine.write_text(book.read_text())
    assert train(config, tmp_path / "r", resume=True).step == 12


def test_a_vocabulary_that_has_changed(tmp_path, book):
    mine = tmp_path / "mine.txt"
    mine.write_text(book.read_text())
    config = tiny.settings(mine)
    train_until(5, config, tmp_path / "r")
    mine.write_text(book.read_text() + "ÄÖ")
    for given in (config, None):
        said = refused(gw.GptwrightError, given, tmp_path / "r", resume=True)
        assert "vocab" in said
    mine.write_text(book.read_text().replace("w", "v"))
    said = refused(gw.GptwrightError, None, tmp_path / "r", resume=True)
    assert "vocabulary of" in said


def test_a_vocabulary_too_small_for_the_tokenizer(settings, tmp_path):
    said = refused(gw.ConfigError, settings({"model.vocab_size": 7}), tmp_path / "r")
    assert "model.vocab_size is 7, but the tokenizer has" in said
    assert not (tmp_path / "r").exists()


def test_a_run_folder_that_exists(settings, run):
    said = refused(gw.GptwrightError, settings(), run)
    assert "exists already; continue it with --resume, name another with --run, or delete it" in said


def test_an_empty_folder_may_be_used(settings, tmp_path):
    (tmp_path / "r").mkdir()
    assert train(settings({"train.steps": 2}), tmp_path / "r").step == 2


def test_nothing_to_resume(settings, tmp_path):
    said = refused(gw.CheckpointError, settings(), tmp_path / "r", resume=True)
    assert "has no config.yaml, so there is nothing to resume" in said


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/run"])
def test_a_folder_that_cannot_be_written(settings, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    said = refused(gw.GptwrightError, settings(), tmp_path / place)
    assert "cannot be written" in said or "exists already" in said
    assert "--run" in said
    assert (tmp_path / "file").read_text() == "mine"


def test_no_settings(tmp_path):
    assert "no settings were given" in refused(gw.GptwrightError, None, tmp_path / "r")


def test_no_data(settings, tmp_path):
    config = settings()
    del config["data"]
    assert "data is not set, and training needs a source" in refused(gw.ConfigError, config, tmp_path / "r")


def test_a_text_shorter_than_one_context(settings, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("the cat sat on the mat")
    said = refused(gw.DataError, settings({"data.source": str(short)}), tmp_path / "r")
    assert "needs 17" in said
    assert not (tmp_path / "r").exists()


def test_a_batch_that_is_no_multiple_of_the_context(settings, tmp_path):
    said = refused(gw.ConfigError, settings({"train.tokens_per_step": 70}), tmp_path / "r")
    assert "tokens_per_step 70 must be a multiple of model.max_seq_len 16; 64 is the nearest" in said


def test_a_warmup_longer_than_the_run(settings, tmp_path):
    config = settings({"schedule": {"type": "cosine", "warmup_steps": 50}})
    assert "warm-up" in refused(gw.ConfigError, config, tmp_path / "r")


def test_settings_of_a_run_that_cannot_be_read(run):
    (run / "config.yaml").write_text("- nothing\n")
    assert "config.yaml" in refused(gw.ConfigError, None, run, resume=True)
