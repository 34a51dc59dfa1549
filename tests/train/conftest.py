"""A small text, and runs on it."""

import shutil

import pytest

from .. import tiny


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(tiny.text(), "utf-8")
    return path


@pytest.fixture
def settings(book):
    """Settings of a run: ``settings({"train.steps": 5})``."""
    return lambda changes=None: tiny.settings(book, changes)


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory, book):
    """A run that was stopped at step 5."""
    folder = tmp_path_factory.mktemp("begun") / "r"
    tiny.train_until(5, tiny.settings(book), folder)
    return folder


@pytest.fixture
def run(begun, tmp_path):
    """A copy of that run, which a test may spoil."""
    return shutil.copytree(begun, tmp_path / "r")
