"""A cache, a book and a shelf of documents of their own for each test, and how to prepare and read them back."""

import pytest

from gptwright.data.config import DataConfig
from gptwright.data.prepare import prepare
from gptwright.tokenizer.load import load, make_tokenizer


@pytest.fixture
def book_text():
    lines = (f"line {number}: the quick café fox — {number * 7919 % 101}\n" for number in range(400))
    return "".join(lines)


@pytest.fixture
def run():
    def run(source, tokenizer="byte", val_fraction=0.1, **how):
        data = {"source": str(source), "tokenizer": tokenizer, "val_fraction": val_fraction}
        return prepare(DataConfig.from_dict(data), make_tokenizer=make_tokenizer, **how)

    return run


@pytest.fixture
def text_of():
    def text_of(prepared, split):
        stream = prepared.split(split)
        return load(prepared.tokenizer_folder).decode(stream.read(0, len(stream)))

    return text_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def book(tmp_path, book_text):
    path = tmp_path / "book.txt"
    path.write_text(book_text, encoding="utf-8", newline="")
    return path


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "shelf"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02d}.txt").write_text(f"document {number} " * (number + 1), encoding="utf-8")
    return folder
