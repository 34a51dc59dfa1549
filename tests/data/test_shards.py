"""Opening prepared data: whatever is missing or changed is refused with both values."""

import json

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
    with pytest.raises(DataError, match="has format 9, and this gptwright reads format 1"):
        Prepared.open(folder)


def test_an_index_that_points_outside_is_damaged(folder):
    index = json.loads((folder / "index.json").read_text())
    index["splits"]["val"]["shards"][0]["file"] = "../secret.bin"
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="is damaged"):
        Prepared.open(folder)


def test_a_split_gone_from_the_index_is_damage(folder):
    index = json.loads((folder / "index.json").read_text())
    del index["splits"]["val"]
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
