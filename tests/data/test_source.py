"""Sources: what they yield, and one sentence for each way a file can be wrong."""

import json
import os
import sys

import pytest

from gptwright.data.config import DataConfig
from gptwright.data.source import open_sources
from gptwright.errors import ConfigError, DataError


def source_of(source, **settings):
    (found,) = open_sources(DataConfig(source=str(source), **settings))
    return found


def documents(source, **settings):
    return list(source_of(source, **settings).documents())


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_file_is_one_document_as_it_is(tmp_path):
    assert documents(write(tmp_path / "a.txt", "one\r\ntwo\n\né")) == ["one\r\ntwo\n\né"]
    assert documents(write(tmp_path / "bom.txt", b"\xef\xbb\xbfone")) == ["one"]
    assert documents(write(tmp_path / "no_suffix", "x")) == ["x"]
    assert documents(write(tmp_path / "empty.txt", "")) == []


def test_not_utf8_names_file_and_byte(tmp_path):
    latin = write(tmp_path / "latin.txt", b"caf\xe9 au lait")
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8 text: byte 0xE9 at offset 3 .*iconv"):
        documents(latin)
    with pytest.raises(DataError, match=r"byte 0xFF at offset 7"):
        documents(write(tmp_path / "bom.txt", b"\xef\xbb\xbfgood\xff"))
    with pytest.raises(DataError, match=r"offset 0 .*looks like UTF-16.*iconv -f UTF-16"):
        documents(write(tmp_path / "wide.txt", "\ufeffhello".encode("utf-16-le")))


def test_a_missing_file_says_where_and_what_is_near(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my-book.txt", "x")
    with pytest.raises(DataError) as error:
        documents("my_book.txt")
    for part in ("'my_book.txt' does not exist", str(tmp_path), "similar names: my-book.txt", "python-docs, stdlib"):
        assert part in str(error.value)
    with pytest.raises(DataError, match="similar names: python-docs"):
        documents("pythondocs")
    with pytest.raises(DataError, match="nor does the folder none"):
        documents("none/at-all.txt")


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is neither a file nor a folder"):
        documents(tmp_path / "pipe")


def test_a_name_too_long_is_a_sentence_too():
    with pytest.raises(DataError, match=r"data\.source"):
        documents("x" * 5000)


def test_a_folder_reads_text_files_in_order_and_says_what_it_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name, content in {"b.txt": "B", "a.md": "A", "sub/c.py": "C", ".hidden": "no", "e.txt": ""}.items():
        write(tmp_path / name, content)
    write(tmp_path / ".git/config", "no")
    write(tmp_path / "picture.png", b"\x89PNG\0\0\xff")
    source = source_of(str(tmp_path))
    assert list(source.documents()) == list(source.documents()) == ["A", "B", "C"]
    assert source.notes == ["hidden files left out: 1", "binary files left out: 1"]


def test_a_folder_without_text(tmp_path):
    write(tmp_path / "picture.png", b"\0")
    with pytest.raises(DataError, match=r"holds no text files \(binary files left out: 1\)"):
        documents(tmp_path)


def test_a_folder_names_the_file_that_is_not_utf8(tmp_path):
    write(tmp_path / "good.txt", "good")
    write(tmp_path / "older.txt", b"\xe9")
    with pytest.raises(DataError, match=r"older\.txt is not UTF-8"):
        documents(tmp_path)


def test_jsonl(tmp_path):
    lines = '\ufeff{"text": "one\\n", "id": 1}\n\n{"text": ""}\r\n{"text": "tw\\ud83c\\udf89"}'
    path = write(tmp_path / "a.jsonl", lines)
    assert documents(path) == ["one\n", "tw🎉"]
    write(tmp_path / "b.jsonl", '{"text": "three"}')
    assert documents(tmp_path) == ["one\n", "tw🎉", "three"]  # a folder of nothing else
    assert documents(write(tmp_path / "c.jsonl", '{"body": "x"}'), text_field="body") == ["x"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"text": ', r"line 2 of .*a\.jsonl is not JSON"),
        ("[1]", r"line 2 of .*a\.jsonl is a JSON list"),
        ('{"body": 1, "id": 2}', r"line 2 of .* has no 'text' \(it has 'body', 'id'\): set data\.text_field"),
        ("{}", r"has no 'text' \(it has no keys\)"),
        ('{"text": 5}', r"line 2 of .* has a int under 'text', not text"),
        ('{"text": "\\ud800"}', r"line 2 of .* holds \\ud800 .* half of a surrogate pair"),
        (b'{"text": "\xe9"}', r"a\.jsonl is not UTF-8 text: byte 0xE9 at offset 27"),
    ],
)
def test_bad_jsonl_lines_are_named(tmp_path, line, sentence):
    line = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path / "a.jsonl", b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(DataError, match=sentence):
        documents(path)


def test_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": ["one", None, "", "two"], "n": [1, 2, 3, 4], "many": [["x"]] * 4})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)
    assert documents(path) == ["one", "two"]
    assert documents(tmp_path) == ["one", "two"]
    with pytest.raises(DataError, match=r"no column 'body' \(it has 'text', 'n', 'many'\)"):
        documents(path, text_field="body")
    with pytest.raises(DataError, match=r"column 'n' of .* holds int64, not text"):
        documents(path, text_field="n")
    with pytest.raises(DataError, match="not text"):
        documents(path, text_field="many")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        documents(write(tmp_path / "bad.parquet", "no"))


@pytest.mark.parametrize("name", ["python-docs", "stdlib"])
def test_corpora_need_nothing(name):
    source = source_of(name)
    first = next(source.documents())
    assert source.name == name
    assert first
    assert source.fingerprint_hint == source_of(name).fingerprint_hint
    json.dumps(source.fingerprint_hint)


def test_python_docs_is_the_topics_in_order():
    from pydoc_data.topics import topics

    assert documents("python-docs") == [topics[key] for key in sorted(topics)]


def test_stdlib_is_source_without_tests():
    files = [entry[0] for entry in source_of("stdlib").fingerprint_hint["files"]]
    assert any(path.endswith(os.path.join("json", "decoder.py")) for path in files)
    parts = {part for path in files for part in path.split(os.sep)}
    assert not parts & {"test", "idle_test", "site-packages", "__pycache__"}


def test_hub_datasets_from_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["one", "", "two"], "n": [1, 2, 3]})
    rows.save_to_disk(str(tmp_path / "alone"))
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "split"))
    assert documents(f"hf:{tmp_path}/alone") == ["one", "two"]
    assert documents(f"{tmp_path}/alone") == ["one", "two"]  # not the JSON that lies beside the rows
    assert documents(f"{tmp_path}/split", hf_split="test") == ["one", "two"]
    assert documents(f"hf:{tmp_path}/split", hf_split="test") == ["one", "two"]
    with pytest.raises(DataError, match=r"has no split 'train' \(it has test\): set data\.hf_split"):
        documents(f"hf:{tmp_path}/split")
    with pytest.raises(DataError, match=r"no column 'body' \(it has 'text', 'n'\)"):
        documents(f"hf:{tmp_path}/alone", text_field="body")
    with pytest.raises(DataError, match=r"row 1 of .*alone has a int under 'n', not text"):
        documents(f"hf:{tmp_path}/alone", text_field="n")
    with pytest.raises(DataError, match=r"there is no folder .*missing"):
        documents(f"hf:{tmp_path}/missing")
    write(tmp_path / "alone2.jsonl", '{"text": "x"}')
    hints = [source_of(f"hf:{tmp_path}/alone").fingerprint_hint for _ in range(2)]
    assert hints[0] == hints[1]


@pytest.mark.parametrize(("source", "library"), [("hf:owner/name", "datasets"), ("a.parquet", "pyarrow")])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, source, library):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.parquet", "x")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DataError, match=rf"needs (the )?{library}.*pip install 'gptwright\[data\]'"):
        documents(source)


def test_settings():
    config = DataConfig(source="x")
    assert config.tokenizer.type == "byte"
    assert DataConfig.from_dict(config.to_dict()) == config
    for wrong in ({"val_fraction": 0.0}, {"val_fraction": 1.0}, {"tokenizer": "bytes"}, {"text": "x"}):
        with pytest.raises(ConfigError):
            DataConfig.from_dict({"source": "x", **wrong})
