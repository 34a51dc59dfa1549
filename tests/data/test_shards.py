"""Opening prepared data: whatever is missing or changed is refused with both values."""

import json
import os
import subprocess
import sys

import pytest

from gptwright.data.config import DataConfig
from gptwright.data.prepare import prepare
from gptwright.data.shards import Prepared
from gptwright.errors import DataError
from gptwright.tokenizer.load import make_tokenizer


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("some text to learn from, " * 99)
    config = DataConfig(source=str(tmp_path / "a.txt"))
    return prepare(config, make_tokenizer=make_tokenizer, folder=tmp_path / "made", shard_tokens=500).folder


def test_a_flipped_byte_is_named_with_both_hashes(folder):
    shard = folder / "train-00002.bin"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 0x80
    shard.write_bytes(content)
    with pytest.raises(
        DataError, match=r"train-00002\.bin does not match its hash \(sha256 [0-9a-f]{64}, .* [0-9a-f]{64}\): delete"
    ):
        Prepared.open(folder)
    Prepared.open(folder, verify=False)


def test_a_truncated_shard_is_named_even_unverified(folder):
    shard = folder / "val-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"val-00000\.bin has \d+ bytes and its index says \d+: delete"):
        Prepared.open(folder, verify=False)


def test_a_missing_shard(folder):
    (folder / "train-00001.bin").unlink()
    with pytest.raises(DataError, match=r"train-00001\.bin cannot be read \(No such file"):
        Prepared.open(folder)


def test_no_index(tmp_path):
    with pytest.raises(DataError, match="holds no prepared data"):
        Prepared.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"format": 1}'])
def test_a_damaged_index(folder, content):
    (folder / "index.json").write_text(content)
    with pytest.raises(DataError, match=r"index\.json is damaged.*prepare the data again"):
        Prepared.open(folder)


def test_an_index_of_another_format(folder):
    (folder / "index.json").write_text('{"format": 9}')
    with pytest.raises(DataError, match="has format 9, and this gptwright reads formats 1 to 2: delete"):
        Prepared.open(folder)


def test_an_index_that_points_outside_is_damaged(folder):
    index = json.loads((folder / "index.json").read_text())
    index["parts"][0]["splits"]["val"]["shards"][0]["file"] = "../secret.bin"
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="is damaged"):
        Prepared.open(folder)


def test_a_split_gone_from_the_index_is_damage(folder):
    index = json.loads((folder / "index.json").read_text())
    del index["parts"][0]["splits"]["val"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="is damaged"):
        Prepared.open(folder)


def test_streams_read_anywhere_and_not_beyond(folder):
    stream = Prepared.open(folder).split("train")
    whole = stream.read(0, len(stream))
    for start, n in ((0, 0), (499, 3), (500, 500), (1, len(stream) - 1), (len(stream), 0)):
        assert (stream.read(start, n) == whole[start : start + n]).all()
    for start, n in ((-1, 2), (0, len(stream) + 1), (len(stream), 1)):
        with pytest.raises(IndexError, match="are not inside"):
            stream.read(start, n)


def _as_format_1(folder):
    """Make a folder what the first layout was."""
    index = json.loads((folder / "index.json").read_text())
    (part,) = index.pop("parts")
    for split in part["splits"].values():
        split["shards"] = [{key: shard[key] for key in ("file", "tokens", "sha256")} for shard in split["shards"]]
    (folder / "index.json").write_text(json.dumps(index | {"format": 1, "splits": part["splits"]}))
    for path in folder.glob("*.ends"):
        path.unlink()


def test_the_first_layout_still_opens_with_the_same_fingerprint_but_knows_no_ends(folder):
    before = Prepared.open(folder)
    _as_format_1(folder)
    after = Prepared.open(folder)
    assert after.fingerprint == before.fingerprint
    assert (after.split("val").read(0, 20) == before.split("val").read(0, 20)).all()
    with pytest.raises(DataError, match=r"prepared by an older gptwright, .* or use data\.packing=stream"):
        list(after.split("train").ends())


def test_check_says_nothing_while_nothing_moves_and_forgives_a_touch(folder):
    prepared = Prepared.open(folder)
    prepared.check()
    before = prepared.split("train").read(0, 100)
    for path in folder.glob("train-*.bin"):
        os.utime(path, (1, 1))
        path.with_suffix(".copy").write_bytes(path.read_bytes())
        path.with_suffix(".copy").replace(path)
    prepared.check()
    assert (prepared.split("train").read(0, 100) == before).all()


@pytest.mark.parametrize("name", ["train-00001.bin", "val-00000.bin", "val-00000.ends"])
@pytest.mark.parametrize("keep_time", [False, True])
def test_check_names_a_shard_that_was_changed_underneath(folder, name, keep_time):
    prepared = Prepared.open(folder)
    shard = folder / name
    facts, content = shard.stat(), bytearray(shard.read_bytes())
    content[3] ^= 1
    with shard.open("r+b") as file:
        file.write(content)
    if keep_time:
        os.utime(shard, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(DataError, match=rf"{name} does not match its hash"):
        prepared.check()
    with pytest.raises(DataError, match=rf"{name} does not match its hash"):
        prepared.split(name.partition("-")[0]).check()


def test_check_names_a_shard_that_is_gone_or_shorter(folder):
    prepared = Prepared.open(folder)
    (folder / "train-00000.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-00000\.bin has 0 bytes and its index says"):
        prepared.check()
    (folder / "train-00000.bin").unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin cannot be read \(No such file"):
        prepared.check()


SHRINK = """
import os, sys
from gptwright.data.shards import Prepared
from gptwright.errors import DataError
stream = Prepared.open(sys.argv[1]).split("train")
stream.read(0, 10)
os.truncate(sys.argv[1] + "/train-00000.bin", 0)
try:
    stream.read(0, 10)
except DataError as error:
    print(error)
"""


def test_a_shard_that_shrinks_under_a_reader_is_a_sentence_and_no_crash(folder):
    done = subprocess.run([sys.executable, "-c", SHRINK, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "train-00000.bin became shorter while it was being read (bytes 0 to 20 of" in done.stdout


def test_many_shards_need_few_open_files(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789" * 300)
    config = DataConfig(source=str(tmp_path / "a.txt"))
    prepared = prepare(config, make_tokenizer=make_tokenizer, folder=tmp_path / "made", shard_tokens=10)
    assert len(prepared.train.shards) > 260
    stream = prepared.split("train")
    assert stream.read(0, len(stream)).tolist() == list(b"0123456789" * 270)
    assert len(os.listdir("/proc/self/fd")) < 330
