"""A small world to type commands in: a text, settings that train in a second, and a run that has been trained."""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gptwright as package
from gptwright.cli.main import main

SOURCE = Path(package.__file__).parents[1]
TEXT = "The cat sat on the mat. A dog barked at the old moon.\n" * 80

SETTINGS = """\
model: {d_model: 16, n_layers: 1, max_seq_len: 16, attention: {type: softmax, n_heads: 2}}
train: {steps: 4, tokens_per_step: 64, log_every: 1, eval_every: 2, sample_tokens: 12, trackers: []}
data: {source: text.txt, tokenizer: char}
"""


@dataclass(frozen=True)
class Done:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Return a cache of prepared data that the tests of a session share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workshop(tmp_path, monkeypatch, cache):
    """Return a new current folder with `text.txt` and `tiny.yaml`."""
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(cache))
    monkeypatch.delenv("GPTWRIGHT_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "tiny.yaml").write_text(SETTINGS)
    return tmp_path


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory, cache):
    """Return a run folder, trained with text of an absolute path."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    (folder / "tiny.yaml").write_text(SETTINGS)
    run, source = folder / "run", f"data.source={folder / 'text.txt'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTWRIGHT_CACHE", str(cache))
        assert (
            main(["train", str(folder / "tiny.yaml"), source, "train.keep_best=false", "--run", str(run), "--quiet"])
            == 0
        )
    return run


@pytest.fixture
def trained(trained_once, workshop):
    """Return a copy of the trained run that a test may spoil: `runs/tiny` of the workshop."""
    return Path(shutil.copytree(trained_once, workshop / "runs" / "tiny")).relative_to(workshop)


@pytest.fixture
def gptwright(workshop, capsys):
    """Return a function that runs a command in the workshop."""

    def run(*arguments: Any) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def commands():
    """Return a function that finds the commands which a text says to type, each as its arguments."""

    def find(text: str) -> list[list[str]]:
        lines = [line.strip() for line in re.sub(r"\\\n *", "", text).splitlines()]
        return [shlex.split(line.split("   ")[0])[1:] for line in lines if line.startswith("gptwright ")]

    return find
