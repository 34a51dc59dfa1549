import json
import os
import pickle

import numpy as np
import pytest


def test_prepare_a_bare_source(gptwright, workshop):
    done = gptwright("data", "prepare", "text.txt", "--tokenizer", "bpe", "--vocab-size", 300, "--out", "made")
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["split", "tokens", "bytes", "characters", "documents", "shards"]
    assert rows[1][0] == "train"
    assert rows[1][2:] == ["3,888", "3,888", "1", "1"]
    assert ["folder", "made"] in rows
    assert "index.json" in os.listdir("made")
    assert done.err.splitlines() == ["reading", "learning the tokenizer", "tokenizing"]


def test_info_tells_the_same(gptwright):
    made = gptwright("data", "prepare", "text.txt", "data.tokenizer.type=char", "--out", "made", "--json", "--quiet")
    assert made.err == ""
    assert gptwright("data", "info", "made", "--json").json == made.json
    assert (made.json["tokenizer"], made.json["vocab_size"], made.json["bytes_per_token"]) == ("char", 20, 1.0)
    assert made.json["splits"]["val"]["tokens"] == 432
    assert (
        gptwright("data", "info", "made").out
        == gptwright("data", "prepare", "text.txt", "--tokenizer", "char", "--out", "made").out
    )


def test_what_is_prepared_is_what_train_uses(gptwright, workshop, monkeypatch):
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(workshop / "cache"))
    done = gptwright("data", "prepare", "tiny.yaml", "--json")
    before = sorted(os.listdir(workshop / "cache" / "data"))
    assert done.json["folder"].endswith(before[0])
    assert gptwright("train", "tiny.yaml", "--quiet").code == 0
    assert sorted(os.listdir(workshop / "cache" / "data")) == before


def test_settings_win_over_the_file(gptwright):
    done = gptwright("data", "prepare", "tiny.yaml", "data.val_fraction=0.5", "--tokenizer", "byte", "--json")
    assert done.json["tokenizer"] == "byte"
    assert done.json["splits"]["val"]["tokens"] == 2160


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["prepare", "nothing.txt"], "data.source 'nothing.txt' does not exist"),
        (["prepare", "nothing.yaml"], "there is no file 'nothing.yaml'"),
        (
            ["prepare", "text.txt", "--tokenizer", "bpee"],
            "data.tokenizer: unknown tokenizer 'bpee'; did you mean 'bpe'?",
        ),
        (["prepare", "text.txt", "--tokenizer", "char", "--vocab-size", "9"], "data.tokenizer.vocab_size: unknown key"),
        (["prepare", "text.txt", "--tokenizer", "bpe", "--vocab-size", "9"], "data.tokenizer.vocab_size: must be"),
        (["prepare", "tiny.yaml", "data=null"], "data is not set, and training needs a source"),
        (["info", "."], ". holds no prepared data"),
        (["info", "nothing"], "nothing holds no prepared data"),
    ],
)
def test_a_mistake_is_one_sentence(gptwright, arguments, sentence):
    done = gptwright("data", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")
    assert done.err.count("\n") == 1


def test_a_mixture_and_what_was_left_out_are_shown_by_part(gptwright, workshop):
    rows = [f"a line, number {n % 20}" for n in range(30)]
    (workshop / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    (workshop / "mixed.yaml").write_text(
        "extends: tiny.yaml\ndata:\n  source: null\n  dedup: true\n  mixture:\n"
        "  - {source: text.txt, weight: 0.5}\n  - {source: rows.jsonl, weight: 0.5}\n"
    )
    made = gptwright("data", "prepare", "mixed.yaml", "--workers", 1, "--out", "made", "--json", "--quiet")
    assert made.code == 0, made.err
    assert gptwright("data", "info", "made", "--json").json == made.json
    assert made.json["duplicates"] == made.json["parts"]["rows"]["duplicates"] == 10
    assert made.json["source"] == "0.5 text.txt + 0.5 rows.jsonl"
    lines = [line.split() for line in gptwright("data", "info", "made").out.splitlines()]
    names = [" ".join(line[:-5]) for line in lines[1:7]]
    assert names == ["train", "val", "text: train", "text: val", "rows: train", "rows: val"]
    assert ["duplicates", "10", "documents", "left", "out"] in lines


def test_a_bad_line_of_a_chat_is_one_sentence_with_its_number(gptwright, workshop):
    (workshop / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}\n')
    done = gptwright("data", "prepare", "chat.jsonl", "data.format=chat", "--quiet")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: message 2 on line 1 of chat.jsonl has no 'role' (it has 'content'): "
        "each message needs a role and a content\n"
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["data.mixture=[{source: a.txt, weight: 1.0}]"], "both source 'text.txt' and a mixture of 1 are given"),
        (["data.source=null"], "there is no source; give data.source=my-text.txt"),
        (["data.source=null", "data.mixture=[{source: a.txt, weight: 0.9}]"], "the weights of mixture sum to 0.9 and"),
        (["data.packing=rows"], "must be one of 'stream', 'documents', 'pad'"),
        (["data.format=chat", "data.packing=stream"], "packing stream would run the examples of format chat"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(gptwright, settings, sentence):
    done = gptwright("data", "prepare", "tiny.yaml", *settings)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err
    assert done.err.count("\n") == 1


def test_ids_of_others_become_data_that_train_uses(gptwright, workshop):
    text = (workshop / "text.txt").read_bytes()
    np.frombuffer(text[:3000], np.uint8).astype("<u2").tofile(workshop / "train.bin")
    np.frombuffer(text[3000:], np.uint8).astype("<u2").tofile(workshop / "val.bin")
    done = gptwright(
        "data", "import", "train.bin", "--val", "val.bin", "--tokenizer", "byte", "--out", "ids", "--json", "--quiet"
    )
    assert done.code == 0, done.err
    assert (done.json["splits"]["train"]["tokens"], done.json["splits"]["val"]["bytes"]) == (3000, len(text) - 3000)
    assert gptwright("train", "tiny.yaml", "data.source=ids", "data.tokenizer=byte", "--quiet").code == 0


def test_characters_of_nanogpt_are_read_without_running_anything(gptwright, workshop):
    letters = sorted(set((workshop / "text.txt").read_text()))
    ids = [letters.index(letter) for letter in (workshop / "text.txt").read_text()]
    np.array(ids).astype("<u2").tofile(workshop / "train.bin")
    meta = {"vocab_size": len(letters), "itos": dict(enumerate(letters)), "stoi": {c: n for n, c in enumerate(letters)}}
    (workshop / "meta.pkl").write_bytes(pickle.dumps(meta))
    done = gptwright("data", "import", "train.bin", "--tokenizer", "meta.pkl", "--out", "ids", "--json", "--quiet")
    assert done.code == 0, done.err
    assert (done.json["tokenizer"], done.json["bytes_per_token"]) == ("char", 1.0)
    out = gptwright("data", "export", "ids", "out", "--to", "parquet", "--text", "--json")
    assert out.code == 0, out.err
    rows = pytest.importorskip("pyarrow.parquet").read_table(workshop / "out" / "train.parquet").to_pylist()
    assert (workshop / "text.txt").read_text().startswith(rows[0]["text"])
    shown = gptwright("data", "export", "tiny.yaml", "out-2")
    assert [line.split()[0] for line in shown.out.splitlines() if line.strip()] == [
        *("file", "train.parquet", "val.parquet", "folder")
    ]


class Trap:
    """What a malicious pickle holds."""

    def __reduce__(self):
        """Run something when it is read."""
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pickle.dumps({"itos": {0: Trap()}}), "the pickle wants to import posix.mkdir"),
        (pickle.dumps(["a"]), "meta.pkl lists no characters under 'itos'"),
        (pickle.dumps({"itos": {0: "a", 2: "b"}}), "meta.pkl lists no characters under 'itos'"),
        (pickle.dumps({"itos": {0: "b", 1: "a"}}), "meta.pkl lists characters that are not sorted and distinct"),
        (b"nonsense", "meta.pkl is no readable pickle"),
    ],
)
def test_other_pickles_are_refused(gptwright, workshop, content, sentence):
    (workshop / "meta.pkl").write_bytes(content)
    (workshop / "a.bin").write_bytes(b"\1\0\2\0")
    done = gptwright("data", "import", "a.bin", "--tokenizer", "meta.pkl", "--out", "ids")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")
    assert not (workshop / "sprung").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["import", "a.bin", "--tokenizer", "bpe", "--out", "ids"], "--tokenizer bpe must be learnt from text"),
        (["import", "a.bin", "--tokenizer", "byte", "--out", "ids", "--dtype", "int8"], "--dtype is 'int8'"),
        (["import", "no.bin", "--tokenizer", "byte", "--out", "ids"], "cannot read no.bin: No such file"),
        (["export", "tiny.yaml", "out", "--to", "csv"], "--to is 'csv', and prepared data is exported as parquet"),
        (["export", "tiny.yaml", "."], ". exists and is not empty"),
    ],
)
def test_a_mistake_with_ids_is_one_sentence(gptwright, workshop, arguments, sentence):
    (workshop / "a.bin").write_bytes(b"\1\0\2\0")
    done = gptwright("data", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith(f"error: {sentence}")
