"""Text that is read in pieces: the same tokens as whole text, in memory that does not grow with it."""

import json
import os
import random
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwright.data import base
from gptwright.data.base import Piece, text_pieces
from gptwright.data.config import DataConfig
from gptwright.data.encode import batches
from gptwright.data.prepare import prepare
from gptwright.data.sample import texts
from gptwright.data.source import open_sources
from gptwright.data.split import split
from gptwright.errors import DataError
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.load import load, make_tokenizer


@given(text=st.text(st.sampled_from("ab \n\rüé€🎉"), min_size=1, max_size=300), block=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_any_blocks_give_the_same_text(tmp_path_factory, text, block):
    path = tmp_path_factory.mktemp("t") / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "BLOCK", block)
        pieces = list(text_pieces(path))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.text for piece in pieces)


@pytest.mark.parametrize("bad", [b"\xff", b"\xe2\x82", b"\xc3(", b"\x80"])
@pytest.mark.parametrize("before", [0, 9, 10, 11, 35])
def test_a_wrong_byte_is_named_at_its_place_whatever_the_blocks(tmp_path, monkeypatch, bad, before):
    monkeypatch.setattr(base, "BLOCK", 10)
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * before + bad)
    with pytest.raises(DataError, match=rf"byte 0x{bad[0]:02X} at offset {before} "):
        list(text_pieces(path))


def test_pieces_end_with_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "BLOCK", 5000)
    path = tmp_path / "a.txt"
    path.write_text("word and word\n" * 4000)
    pieces = [piece.text for piece in text_pieces(path)]
    assert len(pieces) > 5
    assert all(piece[-1].isalpha() and after[0] in " \n" for piece, after in pairwise(pieces))


@pytest.mark.parametrize("tokenizer", ["byte", "char", {"type": "bpe", "vocab_size": 400}])
def test_a_file_in_pieces_has_the_tokens_of_the_whole(book, tokenizer, run, monkeypatch, tmp_path):
    whole = run(book, tokenizer)
    monkeypatch.setattr(base, "BLOCK", 777)
    pieces = run(book, tokenizer, folder=tmp_path / "pieces")
    assert pieces.fingerprint == whole.fingerprint
    text, known = book.read_text("utf-8"), load(whole.tokenizer_folder)
    cut = int(len(text) * 0.9)
    assert whole.split("train").read(0, whole.train.tokens).tolist() == known.encode(text[:cut]).tolist()


def test_batches_do_not_depend_on_how_the_text_comes():
    class Odd(Byte):
        """Cuts after every full stop only."""

        def pieces(self, text, size):
            while (place := text.find(".")) >= 0:
                yield text[: place + 1]
                text = text[place + 1 :]
            if text:
                yield text

    text, tokenizer = "one. two two. three" * 30, Odd(Odd.Config(), with_eot=True)

    def found(sizes):
        cuts, at = [], 0
        while at < len(text):
            size = next(sizes)
            cuts.append(Piece(text[at : at + size], last=at + size >= len(text)))
            at += size
        return [list(batch.pieces) for batch in batches((("train", cut) for cut in cuts), tokenizer, 40)]

    draw = random.Random(0)
    expected = found(iter([10**9]))
    for _ in range(20):
        assert found(iter(lambda: draw.randint(1, 50), None)) == expected


def test_a_tokenizer_learns_from_an_even_sample(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{n:07d} " for n in range(500_000)))
    (source,) = open_sources(DataConfig(source=str(path)))
    parts = split([source], tmp_path, 0.1, dedup=False)
    taken = list(texts(parts, "train", 800_000))
    assert 700_000 < sum(map(len, taken)) < 900_000
    where = [int(piece.split()[1]) / 450_000 for piece in taken]
    gaps = [after - before for before, after in zip([0.0, *where], [*where, 1.0], strict=True)]
    assert max(gaps) < 0.2
    assert sum(map(len, texts(parts, "train", 10**9))) == 3_600_000
    assert sum(map(len, texts(parts, "all", 800_000))) == 4_000_000


def test_a_vocabulary_misses_no_character_of_a_text_longer_than_the_sample(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc " * 50_000 + "ü" + "abc " * 50_000)
    config = DataConfig.from_dict({"source": str(path), "tokenizer": "char", "tokenizer_characters": 10_000})
    assert "ü" in load(prepare(config, make_tokenizer=make_tokenizer).tokenizer_folder).characters


def test_exact_duplicates_are_left_out_and_counted(tmp_path, run):
    rows = [f"document {n % 30}" for n in range(90)] + ["document 1 "]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    config = DataConfig.from_dict({"source": str(path), "dedup": True})
    prepared = prepare(config, make_tokenizer=make_tokenizer)
    assert prepared.train.documents + prepared.val.documents == 31
    assert prepared.index.parts[0].duplicates == 60
    kept = {
        text
        for split in ("train", "val")
        for text in load(prepared.tokenizer_folder)
        .decode(prepared.split(split).read(0, len(prepared.split(split))))
        .split("<|endoftext|>")[:-1]
    }
    assert kept == set(rows)
    plain = run(path)
    assert plain.train.documents + plain.val.documents == 91
    assert plain.index.parts[0].duplicates == 0


GROW = """
import sys
from gptwright.data.config import DataConfig
from gptwright.data.prepare import prepare
from gptwright.tokenizer.load import make_tokenizer
tokenizer = {"type": "bpe", "vocab_size": 300} if sys.argv[2] == "bpe" else sys.argv[2]
data = {"source": sys.argv[1], "tokenizer": tokenizer, "tokenizer_characters": 200_000}
prepare(DataConfig.from_dict(data), make_tokenizer=make_tokenizer, folder=sys.argv[3], workers=2)
"""


def peak(source, tokenizer, out) -> float:
    """Return the peak memory of a preparation in MB, as the system tells it from outside."""
    command = [sys.executable, "-c", GROW, str(source), tokenizer, str(out)]
    most = 0
    alone = {"RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # else threads keep memory of their own, as load has it
    with subprocess.Popen(command, env=os.environ | alone) as process:
        while process.poll() is None:
            try:
                with open(f"/proc/{process.pid}/status") as status:
                    most = max([most, *(int(line.split()[1]) for line in status if line.startswith("VmHWM"))])
            except ProcessLookupError:
                break
            time.sleep(0.01)
    assert process.returncode == 0
    return most / 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
@pytest.mark.parametrize(("kind", "tokenizer"), [("text", "byte"), ("jsonl", "char"), ("folder", "bpe")])
def test_memory_does_not_grow_with_the_text(tmp_path, kind, tokenizer):
    block = "the quick brown fox jumps over the lazy dog, again and again\n" * 500
    peaks = []
    for blocks in (300, 1200) if tokenizer != "bpe" else (150, 600):  # 9 and 37 MB
        source = tmp_path / f"{blocks}{'.jsonl' if kind == 'jsonl' else ''}"
        if kind == "text":
            source.write_text(block * blocks)
        elif kind == "jsonl":
            source.write_text("".join(json.dumps({"text": f"{n} {block}"}) + "\n" for n in range(blocks)))
        else:
            source.mkdir()
            for n in range(blocks // 100):
                (source / f"{n}.txt").write_text(f"{n}" + block * 100)
        peaks.append(peak(source, tokenizer, tmp_path / f"out-{blocks}"))
    assert peaks[1] < peaks[0] + 12  # of 18 to 27 MB more of text
