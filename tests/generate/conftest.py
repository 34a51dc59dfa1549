"""Models that were trained a little on a small text."""

import pytest

import gptwright as gw

from .. import tiny


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(tiny.text(), "utf-8")
    return path


@pytest.fixture(scope="session")
def load(book, tmp_path_factory):
    """Return a trained model: ``load({"model.position": "rotary"})``; the same settings are trained once."""
    models = {}

    def load(changes=None) -> gw.GPT:
        key = repr(changes)
        if key not in models:
            folder = tmp_path_factory.mktemp("runs") / "r"
            tiny.train(tiny.settings(book, {"train.steps": 30, "train.checkpoint_every": 0, **(changes or {})}), folder)
            models[key] = gw.load(folder)
        return models[key]

    return load


@pytest.fixture
def model(load):
    return load()
