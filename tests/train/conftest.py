"""A small text, and runs on it."""

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
