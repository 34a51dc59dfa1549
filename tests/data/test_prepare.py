"""Preparing data: exact splits, every token back to text, all or nothing, and sentences for what cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest

from gptwright.config import cache
from gptwright.data import place
from gptwright.data.config import DataConfig
from gptwright.data.prepare import prepare
from gptwright.errors import DataError
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.load import load, make_tokenizer

TOKENIZERS = ["byte", "char", {"type": "bpe", "vocab_size": 300}]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("val_fraction", [0.1, 0.37])
def test_one_document_is_cut_at_a_character(book, tokenizer, val_fraction, run, text_of, book_text):
    prepared = run(book, tokenizer, val_fraction)
    cut = int(len(book_text) * (1 - val_fraction))
    assert text_of(prepared, "train") == book_text[:cut]
    assert text_of(prepared, "val") == book_text[cut:]
    assert (prepared.train.characters, prepared.val.characters) == (cut, len(book_text) - cut)
    assert prepared.train.bytes == len(book_text[:cut].encode())
    assert prepared.val.bytes == len(book_text[cut:].encode())
    assert prepared.train.documents == prepared.val.documents == 1


def test_char_of_one_document_has_its_characters_only(book, run, book_text):
    prepared = run(book, "char")
    assert prepared.index.tokenizer.vocab_size == len(set(book_text))
    assert prepared.index.tokenizer.eot_id is None


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_documents_end_in_end_of_text_and_are_never_shared(shelf, tokenizer, run, text_of):
    prepared = run(shelf, tokenizer, 0.2)
    ends, sides = prepared.index.tokenizer.eot_id, {}
    for split in ("train", "val"):
        stream = prepared.split(split)
        ids = stream.read(0, len(stream))
        assert ids[-1] == ends
        documents = text_of(prepared, split).split("<|endoftext|>")[:-1]
        assert len(documents) == prepared.index.splits[split].documents == (ids == ends).sum()
        assert sum(map(len, documents)) == prepared.index.splits[split].characters
        sides[split] = set(documents)
    assert not sides["train"] & sides["val"]
    assert sides["train"] | sides["val"] == {path.read_text() for path in shelf.iterdir()}
    assert 3 <= len(sides["val"]) <= 25


def test_equal_documents_stay_on_one_side_and_new_ones_move_none(shelf, run, text_of):
    before = set(text_of(run(shelf), "val").split("<|endoftext|>"))
    for number in range(60):
        text = (shelf / f"{number:02d}.txt").read_text()
        (shelf / f"copy-{number}.txt").write_text(text)
    (shelf / "new.txt").write_text("something new")
    prepared = run(shelf)
    after = text_of(prepared, "val").split("<|endoftext|>")
    assert before <= set(after) <= before | {"something new"}
    assert prepared.train.documents + prepared.val.documents == 121


@pytest.mark.parametrize("val_fraction", [0.000001, 0.999999])
def test_each_side_gets_at_least_one_document(tmp_path, val_fraction, run):
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    prepared = run(path, val_fraction=val_fraction)
    assert (prepared.train.documents, prepared.val.documents) == (1, 1)


def test_shards_workers_and_pieces_change_no_token(book, tmp_path, run):
    for tokenizer in TOKENIZERS:
        whole = run(book, tokenizer)
        name = str(tokenizer if isinstance(tokenizer, str) else "bpe")
        small = run(book, tokenizer, folder=tmp_path / name, shard_tokens=700, workers=3)
        assert len(whole.train.shards) == 1
        assert len(small.train.shards) > 5
        assert max(shard.tokens for shard in small.train.shards) <= 1400
        for split in ("train", "val"):
            one, many = whole.split(split), small.split(split)
            assert len(one) == len(many) == whole.index.splits[split].tokens
            assert (one.read(0, len(one)) == many.read(0, len(many))).all()
            middle = len(one) // 3
            assert (one.read(middle, 900) == many.read(middle, 900)).all() if split == "train" else True


def test_what_is_there_is_used_again(book, run):
    first = run(book, "char")
    times = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert set(times) == {
        "index.json",
        "tokenizer",
        *(f"{split}-00000{end}" for split in ("train", "val") for end in (".bin", ".ends")),
    }

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    config = DataConfig.from_dict({"source": str(book), "tokenizer": "char"})
    again = prepare(config, make_tokenizer=refuse)
    assert again.folder == first.folder
    assert {path.name: path.stat().st_mtime_ns for path in again.folder.iterdir()} == times


def test_a_changed_source_or_setting_is_other_data(book, run, book_text):
    first = run(book)
    assert run(book, val_fraction=0.2).folder != first.folder
    assert run(book, "char").folder != first.folder
    book.write_text(book_text + "more")
    assert run(book).folder != first.folder


def test_the_fingerprint_is_of_the_content_not_of_the_place(book, tmp_path, run):
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(book.read_bytes())
    assert run(book).fingerprint == run(moved).fingerprint != run(book, "char").fingerprint


def test_uint32_only_where_it_must_be(book, run):
    class Wide(Byte):
        def encode(self, text):
            return super().encode(text) + 70_000

    wide = Wide(Wide.Config(), with_eot=False)
    wide.vocab_size = 70_256
    prepared = run(book)
    config = DataConfig(source=str(book))
    other = prepare(config, make_tokenizer=make_tokenizer, tokenizer=wide)
    assert prepared.index.dtype == "uint16"
    assert other.index.dtype == "uint32"
    assert (other.split("val").read(0, 50) == prepared.split("val").read(0, 50) + 70_000).all()


def test_a_tokenizer_whose_ids_leave_its_vocabulary_is_refused(book):
    class Wrong(Byte):
        def encode(self, text):
            return super().encode(text) + 70_000

    wrong = Wrong(Wrong.Config(), with_eot=False)
    with pytest.raises(DataError, match=r"gave ids 70\d+ to 70\d+, outside its vocabulary of 256"):
        prepare(DataConfig(source=str(book)), make_tokenizer=make_tokenizer, tokenizer=wrong)


def test_a_tokenizer_given_is_used_as_it_is(book, tmp_path, run):
    other = tmp_path / "other.txt"
    other.write_text("the quick fox")
    trained = load(run(book, "char").tokenizer_folder)
    config = DataConfig.from_dict({"source": str(other), "tokenizer": "char"})
    prepared = prepare(config, make_tokenizer=make_tokenizer, tokenizer=trained)
    assert prepared.index.tokenizer.fingerprint == trained.fingerprint
    assert prepared.folder != run(other, "char").folder


def test_progress_rises_to_its_total(shelf, run):
    told = []
    run(shelf, {"type": "bpe", "vocab_size": 300}, progress=lambda *what: told.append(what))
    assert list(dict.fromkeys(what[0] for what in told)) == ["read", "tokenizer", "tokenize"]
    done = [what[1:] for what in told if what[0] == "tokenize"]
    assert done == sorted(done)
    assert done[-1][0] == done[-1][1] == sum(len(path.read_text()) for path in shelf.iterdir())


def test_builtin_corpus_end_to_end(run):
    prepared = run("python-docs", "char")
    assert prepared.val.documents >= 1
    assert prepared.folder.name.startswith("python-docs-")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", r"one\.txt' is empty: it holds no text"),
        ("x", r"one document of 1 characters, and val_fraction 0\.1 of it leaves the training split empty"),
    ],
)
def test_too_little_text(tmp_path, content, sentence, run):
    (tmp_path / "one.txt").write_text(content)
    with pytest.raises(DataError, match=sentence):
        run(tmp_path / "one.txt")


def test_a_validation_split_that_would_be_empty(tmp_path, run):
    (tmp_path / "one.txt").write_text("xyz")
    with pytest.raises(DataError, match="leaves the training split empty"):
        run(tmp_path / "one.txt", val_fraction=0.9)


def test_documents_that_are_all_the_same(tmp_path, run):
    (tmp_path / "same.jsonl").write_text('{"text": "same"}\n' * 3)
    with pytest.raises(DataError, match=r"all 3 documents .* are the same text"):
        run(tmp_path / "same.jsonl")


def test_bad_text_leaves_nothing_behind(tmp_path, cache, run):
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\nno\n')
    with pytest.raises(DataError, match="line 2"):
        run(tmp_path / "bad.jsonl")
    assert list((cache / "data").iterdir()) == []


def test_an_unwritable_cache_is_named(book, tmp_path, monkeypatch, run):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write prepared data in .*file/data .*GPTWRIGHT_CACHE"):
        run(book)


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GPTWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.cache_folder() == Path("/x/gptwright")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache/gptwright"


def test_a_folder_that_holds_something_else(book, tmp_path, run):
    folder = tmp_path / "mine"
    folder.mkdir()
    assert run(book, folder=folder).folder == folder  # an empty one is taken
    with pytest.raises(DataError, match=r"mine holds data prepared from '.*book\.txt' with other settings"):
        run(book, "char", folder=folder)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("mine")
    with pytest.raises(DataError, match="notes exists and holds no prepared data"):
        run(book, folder=tmp_path / "notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_a_damaged_shard_in_the_cache_is_refused(book, run):
    shard = run(book).folder / "val-00000.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="does not match its hash"):
        run(book)


def test_without_locks_each_works_alone_and_the_first_stands(book, cache, monkeypatch, run):
    monkeypatch.setattr(place, "fcntl", None)  # as on Windows
    inner = []

    def progress(stage, done, total):
        if stage == "tokenize" and not inner:
            inner.append(None)
            inner[0] = run(book, "char")  # somebody else begins later and is done first

    outer = run(book, "char", progress=progress)
    assert outer.folder == inner[0].folder
    assert [path.name for path in (cache / "data").iterdir()] == [outer.folder.name]


def test_the_index_is_plain_json(book, run):
    index = json.loads((run(book).folder / "index.json").read_text())
    assert set(index) == {"format", "key", "dtype", "source", "tokenizer", "parts"}
    (part,) = index["parts"]
    shard = part["splits"]["train"]["shards"][0]
    assert set(shard) == {"file", "tokens", "sha256", "ends", "ends_sha256", "learn_sha256"}
    assert np.fromfile(run(book).folder / shard["file"], dtype="<u2").size == shard["tokens"]
