"""Prepared data as Parquet, read back by pyarrow and by datasets."""

import json
import sys

import pytest

from gptwright.data import export as exporting
from gptwright.data.config import DataConfig
from gptwright.data.export import METADATA, export_parquet
from gptwright.data.prepare import prepare
from gptwright.errors import DataError
from gptwright.tokenizer.load import load, make_tokenizer

parquet = pytest.importorskip("pyarrow.parquet", reason="reading Parquet needs pyarrow: pip install 'gptwright[data]'")


def test_each_document_is_a_row(tmp_path, shelf, run):
    made = run(shelf, "bpe", val_fraction=0.3)
    facts = export_parquet(made, tmp_path / "out", tokenizer=load(made.tokenizer_folder))
    texts = []
    for split in ("train", "val"):
        table = parquet.read_table(tmp_path / "out" / f"{split}.parquet")
        rows, stream = table.to_pylist(), made.split(split)
        assert [id for row in rows for id in row["ids"]] == stream.read(0, len(stream)).tolist()
        assert [row["document"] for row in rows] == list(range(made.index.splits[split].documents))
        assert str(table.schema.field("ids").type.value_type) == "uint16"
        assert facts["files"][f"{split}.parquet"] == {"documents": len(rows), "rows": len(rows), "tokens": len(stream)}
        told = json.loads(table.schema.metadata[METADATA])
        assert told["tokenizer"]["fingerprint"] == load(tmp_path / "out" / "tokenizer").fingerprint
        assert (told["split"], told["fingerprint"]) == (split, made.fingerprint)
        texts += [row["text"].removesuffix("<|endoftext|>") for row in rows]
    assert sorted(texts) == sorted(path.read_text() for path in shelf.iterdir())


def test_loss_masks_go_along_and_parts_have_files_of_their_own(tmp_path):
    for name in ("a", "b"):
        rows = [{"prompt": f"{name}{n} ", "completion": "yes" * (n + 1)} for n in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = [{"source": str(tmp_path / f"{name}.jsonl"), "weight": 0.5} for name in ("a", "b")]
    config = DataConfig.from_dict({"mixture": parts, "format": "completion", "tokenizer": "byte"})
    made = prepare(config, make_tokenizer=make_tokenizer)
    facts = export_parquet(made, tmp_path / "out")
    assert sorted(facts["files"]) == ["a-train.parquet", "a-val.parquet", "b-train.parquet", "b-val.parquet"]
    rows = parquet.read_table(tmp_path / "out" / "b-train.parquet").to_pylist()
    assert rows
    for row in rows:
        learnt = bytes(id for id, learn in zip(row["ids"], row["learn"], strict=True) if learn and id < 256)
        assert set(learnt.decode().split("yes")) == {""}


def test_a_long_document_has_several_rows_of_one_number(tmp_path, book, run, monkeypatch):
    monkeypatch.setattr(exporting, "MOST", 1000)
    made = run(book)
    export_parquet(made, tmp_path / "out")
    rows = parquet.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert len(rows) == -(-made.train.tokens // 1000)
    assert {row["document"] for row in rows} == {0}


def test_datasets_reads_it(tmp_path, shelf, run):
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'gptwright[data]'")
    made = run(shelf, val_fraction=0.3)
    export_parquet(made, tmp_path / "out")
    files = {split: str(tmp_path / "out" / f"{split}.parquet") for split in ("train", "val")}
    found = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))
    assert sum(map(len, found["train"]["ids"])) == made.train.tokens
    assert found["val"].num_rows == made.val.documents


def test_without_pyarrow_the_way_to_get_it_is_said(tmp_path, book, run, monkeypatch):
    made = run(book)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow, which is not installed: pip install 'gptwright\[data\]'"):
        export_parquet(made, tmp_path / "out")


def test_a_folder_that_holds_something_is_left_alone(tmp_path, book, run):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(DataError, match="out exists and is not empty: choose an empty or new folder"):
        export_parquet(run(book), tmp_path / "out")
