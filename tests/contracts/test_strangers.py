"""Attentions from outside, named in YAML, go through a run like ours: train, resume, load, generate, evaluate."""

from textwrap import dedent

import pytest

import gptwright as gw

from ..tiny import python
from . import strangers
from .parts import STRANGERS, label

TEXT = "the cat sat on the mat and the dog sat on the log; " * 60


def run_file(folder, attention: dict) -> str:
    lines = "".join(f"    {key}: {value}\n" for key, value in attention.items())
    (folder / "book.txt").write_text(TEXT)
    (folder / "run.yaml").write_text(
        "model:\n  d_model: 16\n  n_layers: 2\n  max_seq_len: 16\n  position: rotary\n  attention:\n"
        + lines
        + "train: {steps: 8, tokens_per_step: 64, precision: fp32, trackers: [], sample_tokens: 5}\n"
        + f"data: {{source: {folder / 'book.txt'}, tokenizer: char}}\n"
    )
    return str(folder / "run.yaml")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("attention", STRANGERS, ids=label)
def test_a_run_with_an_attention_from_outside(place, attention):
    done = gw.train(run_file(place, attention), run="r", progress=False)
    more = gw.train(None, {"train.steps": 10}, run="r", resume=True, progress=False)
    assert (done.step, more.step) == (8, 10)
    model = gw.load("r", trust_code=True)
    assert model.config.attention.type == attention["type"]
    text = gw.generate(model, "the ", max_new_tokens=20, seed=1)
    assert text.startswith("the ")
    assert len(text) == 24
    assert gw.evaluate(model).loss == pytest.approx(more.val_loss, rel=1e-5)


def test_a_file_beside_the_settings_is_found_from_elsewhere(tmp_path):
    """In a process of its own: what other tests imported must not help."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "my_file.py").write_text(strangers.MY_FILE)
    config = run_file(folder, {"type": "my_file:MyAttention", "heads": 2})
    code = dedent(f"""
        import gptwright as gw
        gw.train({config!r}, run={str(folder / "r")!r}, progress=False)
        try:
            gw.load({str(folder / "r")!r})
        except gw.ConfigError as error:
            print(error)
        gw.load({str(folder / "r")!r}, trust_code=True)
    """)
    process = python(code, tmp_path)
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "would import code named by a saved folder" in out
    assert "trust_code=True" in out


@pytest.mark.parametrize(
    ("attention", "sentence"),
    [
        ("my_file:YourAttention", "module 'my_file' has no class 'YourAttention'; did you mean 'MyAttention'?"),
        ("no_file:Thing", "'no_file:Thing' cannot be imported: ModuleNotFoundError"),
        ("json:JSONDecoder", "must be a class that extends gptwright.nn.base.Attention"),
        ({"type": "my_file:MyAttention", "heads": 3}, "heads 3 must divide d_model 16"),
        ({"type": "my_file:MyAttention", "heads": 2, "memory": 0}, "memory: must be more than 0"),
    ],
)
def test_what_is_wrong_with_a_class_from_outside_is_said(attention, sentence):
    with pytest.raises(gw.ConfigError) as refused:
        gw.ModelConfig.from_dict({"d_model": 16, "n_layers": 1, "max_seq_len": 8, "attention": attention})
    assert sentence in str(refused.value)


def test_a_forward_that_was_forgotten_is_named():
    class Empty(gw.Attention):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty must define forward\(x, seq, state=None\)"):
        Empty()(None, None)
