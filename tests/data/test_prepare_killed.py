"""Real processes, really killed: nothing half-made is trusted, nothing finished is made again."""

import json
import os
import signal
import subprocess
import sys

import pytest

from gptwright.data.config import DataConfig
from gptwright.data.prepare import prepare
from gptwright.data.shards import Prepared
from gptwright.tokenizer.load import make_tokenizer

SHARD = 20_000  # tokens

SCRIPT = """
import json, os, signal, sys
from gptwright.data.config import DataConfig
from gptwright.data.prepare import prepare
from gptwright.tokenizer.load import make_tokenizer
source, kind, stage, at, shard, more = sys.argv[1:7]
def progress(name, done, total):
    if name == stage and done >= int(at):
        os.kill(os.getpid(), signal.SIGKILL)
tokenizer = {"type": kind, "vocab_size": 300} if kind == "bpe" else kind
config = DataConfig.from_dict({"source": source, "tokenizer": tokenizer} | json.loads(more))
print(prepare(config, make_tokenizer=make_tokenizer, progress=progress, shard_tokens=int(shard), workers=1)
      .folder)
"""


def start(source, kind="bpe", stage="never", at=0, more=None) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(source), kind, stage, str(at), str(SHARD), json.dumps(more or {})]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def kill_while(source, kind, stage, at, more=None) -> None:
    process = start(source, kind, stage, at, more)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.fixture
def library(tmp_path, book_text):
    """One document long enough for many batches, so that progress is told between shards."""
    path = tmp_path / "library.txt"
    path.write_text(book_text * 60, encoding="utf-8", newline="")
    return path


def test_the_killer_kills_midway_and_a_rerun_goes_on(library, cache, tmp_path, monkeypatch):
    kill_while(library, "byte", "tokenize", 500_000)
    left = list((cache / "data").iterdir())
    (partial,) = [path for path in left if path.is_dir()]
    assert partial.name.endswith(".partial")  # a name that nobody opens
    kept = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in partial.glob("*.bin")}
    assert len(kept) > 10
    config = DataConfig.from_dict({"source": str(library)})
    prepared = prepare(config, make_tokenizer=make_tokenizer, shard_tokens=SHARD)
    now = {name: (prepared.folder / name).stat() for name in kept}
    assert {name: (facts.st_ino, facts.st_mtime_ns) for name, facts in now.items()} == kept
    fresh = prepare(config, make_tokenizer=make_tokenizer, shard_tokens=SHARD, folder=tmp_path / "fresh")
    assert prepared.fingerprint == fresh.fingerprint
    assert prepared.index == fresh.index
    assert [path.name for path in (cache / "data").iterdir()] == [prepared.folder.name]
    assert sorted(path.name for path in prepared.folder.iterdir()) == sorted(
        path.name for path in fresh.folder.iterdir()
    )


@pytest.mark.parametrize(("stage", "at"), [("read", 0), ("tokenizer", 1), ("tokenize", 0), ("tokenize", 10_000)])
def test_killed_at_any_stage(book, tmp_path, cache, stage, at, run, text_of, book_text):
    kill_while(book, "bpe", stage, at)
    tokenizer = {"type": "bpe", "vocab_size": 300}
    prepared = run(book, tokenizer, shard_tokens=SHARD)
    assert text_of(prepared, "train") + text_of(prepared, "val") == book_text
    assert [path.name for path in (cache / "data").iterdir()] == [prepared.folder.name]


def test_a_finished_shard_of_a_killed_attempt_is_believed_only_if_its_hash_fits(library, cache, text_of, book_text):
    kill_while(library, "byte", "tokenize", 500_000)
    (partial,) = (cache / "data").glob(".*.partial")
    shard = partial / "train-00003.bin"
    shard.write_bytes(b"\1" * shard.stat().st_size)
    (partial / "stray.unfinished").write_bytes(b"x")
    config = DataConfig.from_dict({"source": str(library)})
    prepared = prepare(config, make_tokenizer=make_tokenizer, shard_tokens=SHARD)
    assert text_of(prepared, "train") + text_of(prepared, "val") == book_text * 60
    assert not (prepared.folder / "stray.unfinished").exists()


@pytest.mark.parametrize("state", ["", "[]", '{"key": "other"}'])
def test_a_damaged_state_is_no_state(library, cache, state, text_of, book_text):
    kill_while(library, "byte", "tokenize", 300_000)
    (partial,) = (cache / "data").glob(".*.partial")
    (partial / "state.json").write_text(state)
    config = DataConfig.from_dict({"source": str(library)})
    prepared = prepare(config, make_tokenizer=make_tokenizer, shard_tokens=SHARD)
    assert text_of(prepared, "val") == (book_text * 60)[int(len(book_text * 60) * 0.9) :]


def test_several_processes_at_once_share_one_result(book, cache, text_of, book_text):
    processes = [start(book) for _ in range(3)]
    folders = {process.communicate(timeout=100)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    (folder,) = folders
    assert [str(path) for path in (cache / "data").iterdir()] == [folder]
    assert text_of(Prepared.open(folder), "train") == book_text[: int(len(book_text) * 0.9)]


@pytest.fixture
def examples(tmp_path):
    """A mixture of chats, a third of which are duplicates."""
    for part, count in (("a", 900), ("b", 600)):
        chats = [
            [
                {"role": "user", "content": f"{part} {n % (count * 2 // 3)} " * 90},
                {"role": "assistant", "content": "ok"},
            ]
            for n in range(count)
        ]
        lines = (json.dumps({"messages": chat}) + "\n" for chat in chats)
        (tmp_path / f"{part}.jsonl").write_text("".join(lines))
    parts = [{"source": str(tmp_path / f"{part}.jsonl"), "weight": 0.5} for part in ("a", "b")]
    return {"source": None, "mixture": parts, "format": "chat", "dedup": True}


@pytest.mark.parametrize(
    ("stage", "at"), [("read", 0), ("read", 260_000), ("tokenize", 0), ("tokenize", 200_000), ("tokenize", 500_000)]
)
def test_a_killed_mixture_of_chats_without_duplicates_goes_on_to_the_same(examples, tmp_path, cache, stage, at):
    kill_while("", "byte", stage, at, examples)
    (partial,) = (cache / "data").glob(".*.partial")
    kept = {path.name: path.stat().st_ino for path in partial.iterdir() if path.suffix in (".bin", ".learn", ".ends")}
    assert bool(kept) == (stage == "tokenize" and at > 100_000)
    config = DataConfig.from_dict({"tokenizer": "byte", **examples})
    told = []
    prepared = prepare(
        config, make_tokenizer=make_tokenizer, shard_tokens=SHARD, progress=lambda *what: told.append(what)
    )
    assert {name: (prepared.folder / name).stat().st_ino for name in kept} == kept
    stages = list(dict.fromkeys(what[0] for what in told))
    assert stages == (["read", "tokenize"] if stage == "read" else ["tokenize"])  # what was read is not read again
    assert [what[1:] for what in told if what[0] == "tokenize"][-1] == (told[-1][2], told[-1][2])
    fresh = prepare(config, make_tokenizer=make_tokenizer, shard_tokens=SHARD, folder=tmp_path / "fresh")
    assert prepared.index == fresh.index
    assert sorted(path.name for path in prepared.folder.iterdir()) == sorted(
        path.name for path in fresh.folder.iterdir()
    )
    assert [part.duplicates for part in prepared.index.parts] == [300, 200]
