"""Token files of others: nanoGPT's, llm.c's and Megatron's, read, divided, and refused where they are wrong."""

import os
import struct

import numpy as np
import pytest

import gptwright as gw
from gptwright.data import token_files
from gptwright.data.adopt import import_tokens
from gptwright.data.config import DataConfig
from gptwright.data.megatron import open_token_file
from gptwright.data.prepare import prepare
from gptwright.data.token_files import check_dtype
from gptwright.errors import DataError
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.load import load, make_tokenizer

from ..tiny import python

EOT = 256


@pytest.fixture
def tokenizer():
    return Byte(Byte.Config(), with_eot=True)


@pytest.fixture(params=[5, 1 << 20])
def block(request, monkeypatch):
    """Read a few ids at a time, and many."""
    monkeypatch.setattr(token_files, "BLOCK", request.param)


TEXTS = [f"document {number}, café" for number in range(40)]


def ids_of(texts, *, first=False):
    """Return the ids of documents, each with its mark at the end, or before."""
    marked = [[EOT, *text.encode()] if first else [*text.encode(), EOT] for text in texts]
    return np.array([id for ids in marked for id in ids])


def plain(path, ids, dtype="<u2"):
    np.asarray(ids).astype(dtype).tofile(path)
    return path


def megatron(path, documents, *, kind=8, dtype="<u2", sequences=1):
    """Write documents as Megatron does, each in so many sequences."""
    parts = [part for ids in documents for part in np.array_split(np.asarray(ids), sequences)]
    np.concatenate(parts).astype(dtype).tofile(path)
    lengths = np.array([len(part) for part in parts])
    places = (np.cumsum(lengths) - lengths) * np.dtype(dtype).itemsize
    starts = np.arange(0, len(parts) + 1, sequences)
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, kind, len(parts), len(starts))
    body = lengths.astype("<i4").tobytes() + places.astype("<i8").tobytes() + starts.astype("<i8").tobytes()
    path.with_suffix(".idx").write_bytes(head + body)
    return path


def documents(prepared, split):
    """Return the texts of the documents of a split, without their marks."""
    stream, tokenizer, begin, found = prepared.split(split), load(prepared.tokenizer_folder), 0, []
    for ends in stream.ends():
        for end in ends.tolist():
            found.append(tokenizer.decode(stream.read(begin, end - begin)).removesuffix("<|endoftext|>"))
            begin = end
    assert begin == len(stream)
    return found


def imported(tmp_path, tokenizer, *train, val=(), **how):
    learnt, kept = ([open_token_file(path) for path in paths] for paths in (train, val))
    return import_tokens(learnt, kept, tokenizer, tmp_path / "made", **how)


@pytest.mark.usefixtures("block")
def test_nanogpts_two_files_are_the_two_splits(tmp_path, tokenizer):
    train, val = (
        plain(tmp_path / f"{name}.bin", ids_of(part)) for name, part in (("train", TEXTS[:30]), ("val", TEXTS[30:]))
    )
    made = imported(tmp_path, tokenizer, train, val=[val])
    assert documents(made, "train") == TEXTS[:30]
    assert documents(made, "val") == TEXTS[30:]
    assert made.val.bytes == sum(len(text.encode()) for text in TEXTS[30:])
    assert made.val.characters == sum(map(len, TEXTS[30:]))
    assert made.index.dtype == "uint16"


@pytest.mark.usefixtures("block")
def test_one_file_is_divided_by_documents_and_always_alike(tmp_path, tokenizer):
    file = plain(tmp_path / "all.bin", ids_of(TEXTS))
    made = imported(tmp_path, tokenizer, file, val_fraction=0.3)
    train, val = (documents(made, split) for split in ("train", "val"))
    assert sorted(train + val) == sorted(TEXTS)
    assert 4 <= len(val) <= 20
    shuffled = plain(tmp_path / "again.bin", ids_of(TEXTS[::-1]))
    again = import_tokens([open_token_file(shuffled)], [], tokenizer, tmp_path / "again", val_fraction=0.3)
    assert sorted(documents(again, "val")) == sorted(val)


@pytest.mark.usefixtures("block")
def test_marks_before_documents_and_repeated_ones_make_no_documents(tmp_path, tokenizer):
    ids = np.concatenate([ids_of(TEXTS, first=True), [EOT, EOT, EOT]])
    made = imported(tmp_path, tokenizer, plain(tmp_path / "a.bin", ids), val_fraction=0.3)
    assert sorted(documents(made, "train") + documents(made, "val")) == sorted(TEXTS)


@pytest.mark.usefixtures("block")
def test_text_without_marks_is_one_document_whose_end_validates(tmp_path, tokenizer):
    made = imported(tmp_path, tokenizer, plain(tmp_path / "a.bin", list(b"abcdefghij" * 10)), val_fraction=0.25)
    assert ("".join(documents(made, "train")), len(made.split("val"))) == ("abcdefghij" * 7 + "abcde", 25)


@pytest.mark.usefixtures("block")
def test_llm_cs_header_is_read(tmp_path, tokenizer):
    ids = ids_of(TEXTS, first=True)
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(ids)
    file = tmp_path / "a.bin"
    file.write_bytes(header.tobytes() + ids.astype("<u2").tobytes())
    made = imported(tmp_path, tokenizer, file, val_fraction=0.3)
    assert sorted(documents(made, "train") + documents(made, "val")) == sorted(TEXTS)
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DataError, match=rf"says in its header that it holds {len(ids)} ids of 2 bytes"):
        open_token_file(file)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(("kind", "dtype"), [(8, "<u2"), (4, "<i4"), (5, "<i8")])
@pytest.mark.parametrize("marked", [True, False])
def test_megatrons_documents_end_with_a_mark_whether_written_or_not(tmp_path, tokenizer, kind, dtype, marked):
    texts = [[*text.encode(), *([EOT] if marked else [])] for text in TEXTS]
    file = megatron(tmp_path / "a.bin", texts, kind=kind, dtype=dtype, sequences=2)
    made = imported(tmp_path, tokenizer, tmp_path / "a", val_fraction=0.3)
    assert sorted(documents(made, "train") + documents(made, "val")) == sorted(TEXTS)
    assert made.train.tokens + made.val.tokens == sum(len(text.encode()) + 1 for text in TEXTS)
    assert open_token_file(file.with_suffix(".idx")).path == file


def test_what_is_imported_can_be_trained_on_and_read_again(tmp_path, tokenizer):
    made = imported(tmp_path, tokenizer, plain(tmp_path / "a.bin", ids_of(TEXTS)), val_fraction=0.3)
    settings = {
        "model": {"d_model": 16, "n_layers": 1, "max_seq_len": 16, "attention": {"type": "softmax", "n_heads": 2}},
        "train": {
            "steps": 2,
            "tokens_per_step": 32,
            "precision": "fp32",
            "eval_every": 0,
            "sample_every": 0,
            "trackers": [],
        },
        "data": {"source": str(made.folder)},
    }
    gw.train(settings, run=tmp_path / "run", progress=False)
    model = gw.load(tmp_path / "run")
    assert model.config.vocab_size == 257
    assert model.tokenizer.fingerprint == tokenizer.fingerprint
    again = gw.train(None, {"train.steps": 3}, run=tmp_path / "run", resume=True, progress=False)
    assert again.step == 3


def test_the_same_again_is_opened_and_something_else_refused(tmp_path, tokenizer):
    file = plain(tmp_path / "a.bin", ids_of(TEXTS))
    made = imported(tmp_path, tokenizer, file)
    before = os.stat(made.folder / "index.json").st_mtime_ns
    assert imported(tmp_path, tokenizer, file).fingerprint == made.fingerprint
    assert os.stat(made.folder / "index.json").st_mtime_ns == before
    with pytest.raises(DataError, match=r"holds data prepared from .* with other settings"):
        imported(tmp_path, tokenizer, file, val_fraction=0.5)


def test_prepared_data_as_a_source_is_itself(tmp_path, tokenizer, book):
    made = imported(tmp_path, tokenizer, plain(tmp_path / "a.bin", ids_of(TEXTS)))
    config = DataConfig.from_dict({"source": str(made.folder)})
    assert prepare(config, make_tokenizer=make_tokenizer).folder == made.folder
    assert prepare(config, make_tokenizer=make_tokenizer, tokenizer=tokenizer).folder == made.folder
    with pytest.raises(DataError, match=r"was prepared with another tokenizer \(fingerprint .* anew with the model's"):
        prepare(config, make_tokenizer=make_tokenizer, tokenizer=Byte(Byte.Config(), with_eot=False))
    with pytest.raises(DataError, match="is prepared already: use it there, or copy it to"):
        prepare(config, make_tokenizer=make_tokenizer, folder=tmp_path / "other")
    parts = [{"source": str(made.folder), "weight": 0.5}, {"source": str(book), "weight": 0.5}]
    with pytest.raises(DataError, match=r"data.mixture.0.source .* is prepared data, which is used whole and alone"):
        prepare(DataConfig.from_dict({"mixture": parts}), make_tokenizer=make_tokenizer)
    (made.folder / "train-00000.bin").write_bytes(b"xx")
    with pytest.raises(DataError, match=r"has 2 bytes and its index says"):
        prepare(config, make_tokenizer=make_tokenizer)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda p: p.write_bytes(b"\1\0\2"), r"a.bin holds 3 bytes of ids, and ids of 2 bytes come in multiples"),
        (lambda p: p.write_bytes(b""), "a.bin holds no token ids"),
        (lambda p: plain(p, [5, 6, 300, 7]), r"holds id 300 at byte 4, and the tokenizer's ids are 0 to 256"),
        (lambda p: plain(p, [5]), "is one document of 1 tokens, and 0.1 of it leaves the training split empty"),
        (lambda p: plain(p, [5, EOT] * 9), "all 9 documents of .* are the same"),
        (lambda p: p.mkdir(), "a.bin: Is a directory"),
        (lambda p: None, r"cannot read .*a.bin: No such file"),
        (lambda p: megatron(p, [[5, 300]]), "holds id 300 at byte 2"),
        (lambda p: megatron(p, [[5, -1]], kind=3, dtype="<i2"), "holds id -1 at byte 2"),
        (lambda p: megatron(p, [[5, 6]], kind=7), "has version 1 and type 7, and what can be read is version 1"),
        (
            lambda p: megatron(p, [[5, 6]]).write_bytes(b"\5\0"),
            r"sequence 0 has 2 ids from byte 0 on, and .* has 2 bytes",
        ),
        (lambda p: megatron(p, [[5, 6]]).with_suffix(".idx").write_bytes(b"MMIDIDX\0"), "is no index of Megatron's"),
        (
            lambda p: cut(megatron(p, [[5, 6], [7]]).with_suffix(".idx")),
            r"is cut short: 2 sequences and 3 documents need",
        ),
        (lambda p: poke(megatron(p, [[5, 6]]), 38, 1 << 40), "says that sequence 0 has 2 ids from byte 1099511627776"),
        (lambda p: poke(megatron(p, [[5, 6]]), 54, 9), "its documents do not divide its 1 sequences"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(tmp_path, tokenizer, write, sentence):
    write(tmp_path / "a.bin")
    with pytest.raises(DataError, match=sentence):
        imported(tmp_path, tokenizer, tmp_path / "a.bin")
    assert not (tmp_path / "made").exists()
    assert not list(tmp_path.glob(".*"))


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def poke(path, offset, value):
    """Change a number of eight bytes in the index."""
    content = bytearray(path.with_suffix(".idx").read_bytes())
    content[offset : offset + 8] = struct.pack("<q", value)
    path.with_suffix(".idx").write_bytes(content)


def test_a_type_of_ids_is_one_of_two():
    assert check_dtype("uint32") == "uint32"
    with pytest.raises(DataError, match=r"--dtype is 'int8', and ids of a .bin are uint16 or uint32"):
        check_dtype("int8")


def test_a_file_that_shrinks_meanwhile_is_named(tmp_path, tokenizer):
    file = open_token_file(plain(tmp_path / "a.bin", ids_of(TEXTS)))
    file.path.write_bytes(b"\1\0")
    with pytest.raises(DataError, match="became shorter while it was being read"):
        import_tokens([file], [], tokenizer, tmp_path / "made")


MEMORY = """
import resource, sys
import numpy as np
from pathlib import Path
from gptwright.data.adopt import import_tokens
from gptwright.data.megatron import open_token_file
from gptwright.tokenizer.kinds.byte import Byte
file = open_token_file(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import_tokens([file], [], Byte(Byte.Config(), with_eot=True), sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    grown = []
    for size in (1, 4):
        ids = np.random.default_rng(0).integers(0, 256, size << 21)
        ids[:: 1 << 10] = EOT
        file = plain(tmp_path / f"{size}.bin", ids)
        done, _ = python(MEMORY, tmp_path, str(file), str(tmp_path / f"made-{size}")).communicate()
        grown.append(int(done))
    assert grown[1] < grown[0] + 30_000  # kilobytes; the larger file has 8 million ids of 8 bytes
