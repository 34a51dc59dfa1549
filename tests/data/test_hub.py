"""Hugging Face datasets read a row at a time, subsets and files of them, and the first documents of any source."""

import json
from pathlib import Path

import pytest

from gptwright.data.config import DataConfig
from gptwright.data.prepare import prepare
from gptwright.data.source import open_sources
from gptwright.errors import DataError
from gptwright.tokenizer.load import make_tokenizer

from ..tiny import python

datasets = pytest.importorskip("datasets", reason="reading datasets needs them: pip install 'gptwright[data]'")


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """Keep what the library stores where a test can look at it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def collection(tmp_path):
    """A dataset as the hub has them: two subsets, and a card that names them."""
    folder = tmp_path / "collection"
    for name in ("en", "fr"):
        (folder / name).mkdir(parents=True)
    pages = datasets.Dataset.from_dict({"text": [f"page {n}" for n in range(30)], "n": list(range(30))})
    for part in range(3):
        pages.select(range(part * 10, part * 10 + 10)).to_parquet(str(folder / "en" / f"train-{part}.parquet"))
    pages.select(range(5)).to_parquet(str(folder / "fr" / "train.parquet"))
    card = "configs:\n- {config_name: en, data_files: en/train-*.parquet}\n- {config_name: fr, data_files: fr/*}\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")
    return folder


@pytest.fixture
def lines(tmp_path):
    """A dataset of JSON lines."""
    (tmp_path / "lines").mkdir()
    rows = [json.dumps({"text": f"line {n}"}) + "\n" for n in range(20)]
    (tmp_path / "lines" / "train.jsonl").write_text("".join(rows))
    return tmp_path / "lines"


def source_of(folder, **settings):
    (source,) = open_sources(DataConfig.from_dict({"source": f"hf:{folder}", **settings}))
    return source


def texts(folder, **settings):
    return list(source_of(folder, **settings).documents())


def stored(cache):
    """Return the data files that the library keeps."""
    return [path for path in Path(cache).rglob("*") if path.suffix in (".arrow", ".parquet")]


PAGES = [f"page {n}" for n in range(30)]


def test_a_stream_gives_the_same_and_stores_nothing(collection, lines, hub_cache):
    assert texts(collection, hf_subset="en", hf_streaming=True) == PAGES
    assert texts(collection, hf_subset="fr", hf_streaming=True) == PAGES[:5]
    assert texts(lines, hf_streaming=True) == [f"line {n}" for n in range(20)]
    assert not stored(hub_cache)
    assert texts(collection, hf_subset="en") == PAGES
    assert stored(hub_cache)


@pytest.mark.parametrize("streaming", [True, False])
def test_files_can_be_chosen_by_a_pattern(collection, streaming):
    chosen = {"hf_files": "en/train-[12].parquet", "hf_streaming": streaming}
    assert texts(collection, **chosen) == PAGES[10:]
    assert texts(collection, **chosen, limit=3) == PAGES[10:13]


def test_a_stream_is_prepared_alike_each_time_and_anew_when_its_files_change(collection, tmp_path):
    config = DataConfig.from_dict(
        {"source": f"hf:{collection}", "hf_subset": "en", "hf_streaming": True, "val_fraction": 0.3}
    )
    first = prepare(config, make_tokenizer=make_tokenizer)
    stored_at = (first.folder / "index.json").stat().st_mtime_ns
    assert (prepare(config, make_tokenizer=make_tokenizer).folder / "index.json").stat().st_mtime_ns == stored_at
    mapped = config.model_copy(update={"hf_streaming": False})
    assert prepare(mapped, make_tokenizer=make_tokenizer).fingerprint == first.fingerprint
    datasets.Dataset.from_dict({"text": ["another"]}).to_parquet(str(collection / "en" / "train-1.parquet"))
    again = prepare(config, make_tokenizer=make_tokenizer)
    assert again.folder != first.folder
    assert again.train.documents + again.val.documents == 21


def test_mistakes_about_datasets_are_sentences(collection, lines):
    with pytest.raises(DataError, match=r"has no split 'test' \(it has train\): set data.hf_split"):
        texts(collection, hf_subset="en", hf_streaming=True, hf_split="test")
    with pytest.raises(DataError, match=r"has no column 'body' \(it has 'text', 'n'\): set data.text_field"):
        texts(collection, hf_subset="en", hf_streaming=True, text_field="body")
    with pytest.raises(DataError, match=r"has no column 'body' \(it has 'text'\): set data.text_field"):
        texts(lines, hf_streaming=True, text_field="body")
    with pytest.raises(DataError, match=r"could not be loaded \(ValueError: .*nl.*en.*fr"):
        texts(collection, hf_subset="nl", hf_streaming=True)
    with pytest.raises(DataError, match="could not be loaded"):
        texts(collection, hf_files="none-*.parquet", hf_streaming=True)


def test_a_row_that_cannot_be_read_on_the_way_is_named(lines):
    (lines / "train.jsonl").write_text('{"text": "one"}\n{"text": \n')
    with pytest.raises(DataError, match=r"the dataset hf:.* could not be loaded \("):
        texts(lines, hf_streaming=True)


def test_the_first_documents_of_any_source(shelf, book, tmp_path):
    def first(source, limit):
        (found,) = open_sources(DataConfig.from_dict({"source": str(source), "limit": limit}))
        return list(found.documents())

    everything = [path.read_text() for path in sorted(shelf.iterdir())]
    assert first(shelf, 7) == everything[:7]
    assert first(shelf, 700) == everything
    assert len(first(book, 1)) == 1
    config = DataConfig.from_dict({"source": str(shelf), "limit": 7, "val_fraction": 0.3})
    made = prepare(config, make_tokenizer=make_tokenizer)
    assert made.train.documents + made.val.documents == 7


MEMORY = """
import resource, sys
from gptwright.data.config import DataConfig
from gptwright.data.source import open_sources
(source,) = open_sources(DataConfig.from_dict({"source": "hf:" + sys.argv[1], "hf_streaming": True}))
pieces = source.pieces()
for _ in range(200):
    next(pieces)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rest = sum(len(piece.text) for piece in pieces)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, rest)
"""


@pytest.mark.exhaustive
def test_memory_stays_flat_while_a_stream_is_read(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    for part in range(8):
        table = datasets.Dataset.from_dict({"text": [f"{part} {n} " * 4000 for n in range(400)]})
        table.to_parquet(str(folder / f"train-{part}.parquet"), batch_size=50)
    out, _ = python(MEMORY, tmp_path, str(folder), HF_HOME=str(tmp_path / "home")).communicate()
    grown, rest = map(int, out.split())
    assert rest > 60_000_000
    assert grown < 40_000  # kilobytes
