"""Every mistake that the command line promises to explain: one clear sentence, exit code 2, nothing lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS_MISTAKES = {
    "unknown key": (
        ["model.d_modle=3"],
        "model.d_modle: unknown key; did you mean 'd_model'? (command line 'model.d_modle=3')",
    ),
    "wrong type": (
        ["train.steps=many"],
        "train.steps: must be a whole number, but is 'many' (command line 'train.steps=many')",
    ),
    "unknown component": (
        ["model.norm=rmsnorm"],
        "model.norm: unknown norm 'rmsnorm'; did you mean 'rms_norm'? (known: layer_norm, rms_norm, scale_norm, or "
        "package.module:Class for your own) (command line 'model.norm=rmsnorm')",
    ),
    "component import that fails": (
        ["model.norm=broken:Norm"],
        "model.norm: norm 'broken:Norm' cannot be imported: ZeroDivisionError: division by zero (looked on Python's "
        "path and in '{here}') (command line 'model.norm=broken:Norm')",
    ),
    "component file that is not there": (
        ["model.norm=nowhere:Norm"],
        "model.norm: norm 'nowhere:Norm' cannot be imported: ModuleNotFoundError: No module named 'nowhere' (looked "
        "on Python's path and in '{here}') (command line 'model.norm=nowhere:Norm')",
    ),
    "heads that do not divide": (
        ["model.attention.n_heads=3"],
        "model.attention.n_heads: n_heads 3 must divide d_model 16; use 2 or 4 heads, or set head_dim (command line "
        "'model.attention.n_heads=3')",
    ),
    "key-value heads that do not divide": (
        ["model.attention.n_heads=4", "model.attention.n_kv_heads=3"],
        "model.attention.n_kv_heads: n_kv_heads 3 must divide n_heads 4; choose one of [1, 2, 4] (command line "
        "'model.attention.n_kv_heads=3')",
    ),
    "window below 1": (
        ["model.attention={{type: local, n_heads: 2, window: 0}}"],
        "model.attention.window: must be more than 0, but is 0 (command line",
    ),
    "top_k above n_experts": (
        ["model.feed_forward={{type: moe, n_experts: 2, top_k: 3}}"],
        "model.feed_forward.top_k: top_k 3 must be at most n_experts 2; choose fewer experts a token, or more experts",
    ),
    "step that is no multiple of the context": (
        ["train.tokens_per_step=60"],
        "train.tokens_per_step: tokens_per_step 60 must be a multiple of model.max_seq_len 16; 64 is the nearest",
    ),
    "missing text": (
        ["data.source=txt.txt"],
        "data.source 'txt.txt' does not exist (current directory {here}); similar names: text.txt",
    ),
    "empty text": (["data.source=empty.txt"], "data.source 'empty.txt' is empty: it holds no text to learn from"),
    "text that is not UTF-8": (
        ["data.source=latin.txt"],
        "latin.txt is not UTF-8 text: byte 0xE9 at offset 3",
    ),
    "source shorter than one context": (
        ["data.source=short.txt"],
        "the train split has 4 tokens, and one window of context 16 with its target needs 17: give more text, lower "
        "model.max_seq_len, or change data.val_fraction",
    ),
    "validation split shorter than one context": (
        ["data.val_fraction=0.001"],
        "the validation split has 5 tokens, and one window of context 16 with its target needs 17: give more text, "
        "lower model.max_seq_len, or change data.val_fraction",
    ),
    "warm-up longer than the run": (
        ["schedule.warmup_steps=9"],
        "schedule.warmup_steps is 9 but the run has 4 steps: a warm-up must fit into the run",
    ),
}


@pytest.fixture
def spoilt(workshop):
    """Return the workshop, with files of every wrong kind in it."""
    (workshop / "empty.txt").touch()
    (workshop / "empty.yaml").touch()
    (workshop / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (workshop / "latin.yaml").write_bytes(b"model: caf\xe9")
    (workshop / "short.txt").write_text("short")
    (workshop / "broken.py").write_text("1 / 0\n")
    return workshop


def refused(done, sentence):
    """Check the promise: code 2, nothing on stdout, one sentence, no traceback; notes of what was merged may follow."""
    assert (done.code, done.out) == (2, ""), done
    lines = [line for line in done.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, done.err
    assert lines[0].startswith(f"error: {sentence}"), done.err


@pytest.mark.parametrize("name", SETTINGS_MISTAKES)
def test_settings_and_text(gptwright, spoilt, name):
    overrides, sentence = SETTINGS_MISTAKES[name]
    here = {"here": os.getcwd()}
    done = gptwright("train", "tiny.yaml", *(each.format(**here) for each in overrides), "--quiet")
    refused(done, sentence.format(**here))
    assert not (spoilt / "runs").exists()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("nothing.yaml", "there is no file 'nothing.yaml' and no preset of that name (presets: base, gpt1, "),
        ("gpt2-124", "there is no file 'gpt2-124' and no preset of that name; did you mean 'gpt2-124m'?"),
        ("empty.yaml", "'empty.yaml' is empty; it must hold settings, as in 'model: {d_model: 384}'"),
        ("latin.yaml", "latin.yaml:1: byte 10 (0xe9) is not UTF-8 text; save the file as UTF-8"),
        ("gpt2-124m", "data is not set, and training needs a source; write data: {source: my-text.txt} or give "),
        ("model.d_model=3", "'model.d_model=3' is a setting; name the file or preset first, then the settings"),
    ],
)
def test_the_file_of_settings(gptwright, spoilt, config, sentence):
    refused(gptwright("train", config), sentence)


def test_no_settings_at_all(gptwright):
    refused(gptwright("train"), "no settings were given; name a YAML file or a preset (gptwright train CONFIG), or ")


def test_several_mistakes_come_at_once(gptwright):
    done = gptwright("train", "tiny.yaml", "model.d_modle=3", "train.steps=many")
    assert done.code == 2
    assert [line.split(":")[0].strip() for line in done.err.splitlines()] == ["error", "model.d_modle", "train.steps"]


def test_a_real_process_prints_one_line_and_no_traceback(workshop):
    command = [sys.executable, "-m", "gptwright", "train", "tiny.yaml", "model.attention.n_heads=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: model.attention.n_heads: n_heads 3 must divide d_model 16; use 2 or 4 heads, or set head_dim "
        "(command line 'model.attention.n_heads=3')\n"
    )


def test_run_folder_that_exists(gptwright, trained):
    before = contents(trained)
    refused(
        gptwright("train", "tiny.yaml"),
        "run folder runs/tiny exists already; continue it with --resume, name another with --run, or delete it",
    )
    assert contents(trained) == before


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("optim.lr=0.5", "optim.lr was 0.001 and is now 0.5"),
        ("model.d_model=32", "model.d_model was 16 and is now 32"),
        ("train.seed=7", "train.seed was 0 and is now 7"),
    ],
)
def test_resume_with_other_settings(gptwright, trained, setting, change):
    before = contents(trained)
    done = gptwright("train", "--resume", "--run", trained, setting, "train.steps=6", "--quiet")
    refused(
        done,
        f"run runs/tiny cannot be resumed with other settings: {change}; resume with the settings that it began "
        f"with, change them on purpose with --resume-with {change.partition(' ')[0]}=VALUE, or start a new run",
    )
    assert contents(trained) == before


@pytest.mark.parametrize("config", [[], ["tiny.yaml"]])
def test_resume_with_a_text_of_another_vocabulary(gptwright, workshop, config):
    assert gptwright("train", "tiny.yaml", "--quiet").code == 0
    (workshop / "text.txt").write_text((workshop / "text.txt").read_text() + "QWZ")
    before = contents(Path("runs/tiny"))
    done = gptwright("train", *config, "--resume", "--run", "runs/tiny", "train.steps=6", "--quiet")
    refused(done, "")
    assert "20" in done.err
    assert "23" in done.err
    assert "vocab" in done.err
    assert contents(Path("runs/tiny")) == before


def test_resume_with_another_text_of_the_same_vocabulary(gptwright, workshop):
    assert gptwright("train", "tiny.yaml", "--quiet").code == 0
    (workshop / "text.txt").write_text((workshop / "text.txt").read_text() + "The cat sat on the dog.\n")
    done = gptwright("train", "tiny.yaml", "--resume", "train.steps=6", "--quiet")
    refused(done, "run runs/tiny was trained on data with fingerprint ")
    assert "the text has changed; give it the source and tokenizer that it began with" in done.err


def test_resume_of_nothing(gptwright):
    refused(
        gptwright("train", "--resume", "--run", "runs/nothing"),
        "run folder runs/nothing has no config.yaml, so there is nothing to resume; name a run with --run, or give "
        "CONFIG and leave --resume out",
    )
    refused(gptwright("train", "--resume"), "--resume needs the run to continue; name its folder with --run DIR, or ")


def test_prompt_longer_than_the_context(gptwright, trained):
    refused(
        gptwright("generate", trained, "--prompt", "The cat sat on the mat."),
        "the prompt has 23 tokens and the model's context (max_seq_len) is 16; shorten the prompt or train with a "
        "larger model.max_seq_len",
    )


def test_temperature_below_zero(gptwright, trained):
    refused(
        gptwright("generate", trained, "--prompt", "The", "--temperature", "-1"),
        "temperature is -1.0 and must be 0 or more; 0 takes the likeliest token",
    )


def test_unwritable_run_folder(gptwright, workshop):
    refused(
        gptwright("train", "tiny.yaml", "--run", "text.txt/run", "--quiet"),
        "run folder text.txt/run cannot be written: Not a directory; name another with --run",
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_run_folder_without_permission(gptwright, workshop):
    (workshop / "locked").mkdir(mode=0o500)
    refused(
        gptwright("train", "tiny.yaml", "--run", "locked/run", "--quiet"),
        "run folder locked/run cannot be written: Permission denied; name another with --run",
    )


def test_unwritable_cache(gptwright, workshop, monkeypatch):
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(workshop / "text.txt"))
    done = gptwright("train", "tiny.yaml", "--quiet")
    refused(done, f"cannot write prepared data in {workshop / 'text.txt' / 'data'} (Not a directory): make room or ")
    assert "choose another cache folder by setting GPTWRIGHT_CACHE" in done.err


def test_corrupt_shard(gptwright, workshop, monkeypatch):
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(workshop / "cache"))
    assert gptwright("train", "tiny.yaml", "--quiet").code == 0
    (shard,) = workshop.glob("cache/data/*/train-00000.bin")
    flip(shard)
    for arguments in (["train", "tiny.yaml", "--run", "again"], ["eval", "runs/tiny"], ["data", "info", shard.parent]):
        done = gptwright(*arguments)
        refused(done, f"the shard {shard} does not match its hash (sha256 ")
        assert done.err.endswith(f": delete {shard.parent} and prepare the data again\n")
    assert not (workshop / "again").exists()


def test_truncated_shard(gptwright, workshop):
    assert gptwright("data", "prepare", "text.txt", "--out", "made", "--quiet").code == 0
    os.truncate("made/val-00000.bin", 100)
    refused(
        gptwright("data", "info", "made"),
        "the shard made/val-00000.bin has 100 bytes and its index says 864: delete made and prepare the data again",
    )


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json", "state.json", "tokenizer/vocabulary.json"])
def test_corrupt_checkpoint(gptwright, trained, file):
    (checkpoint,) = (trained / "checkpoints").glob("step-*")
    flip(checkpoint / file)
    for arguments in (
        ["eval", trained],
        ["generate", trained, "--prompt", "A"],
        ["generate", checkpoint, "--prompt", "A"],
        ["train", "--resume", "--run", trained, "train.steps=6", "--quiet"],
    ):
        done = gptwright(*arguments)
        refused(done, "")
        assert f"checkpoint {checkpoint} is damaged: {file} " in done.err


def test_a_damaged_newest_checkpoint_is_passed_over(gptwright, workshop):
    assert gptwright("train", "tiny.yaml", "train.checkpoint_every=2", "--quiet").code == 0
    flip(workshop / "runs" / "tiny" / "checkpoints" / "step-4" / "model.safetensors")
    done = gptwright("train", "tiny.yaml", "train.checkpoint_every=2", "--resume", "--json")
    assert (done.code, done.json["step"]) == (0, 4)
    assert "step-4 is damaged: model.safetensors has sha256 " in done.err
    assert "going back to step 2" in done.err


def flip(file):
    """Change one byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
