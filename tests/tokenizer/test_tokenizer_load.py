"""Reading tokenizers back: what is damaged, foreign or not trusted is said."""

import json
import sys

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from gptwright.errors import DataError
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char
from gptwright.tokenizer.load import load, make_tokenizer

from . import zoo


@pytest.fixture
def saved(tmp_path):
    Char.train(Char.Config(), ["abc"], with_eot=False).save(tmp_path)
    return tmp_path


def test_an_empty_or_missing_folder(tmp_path):
    with pytest.raises(
        DataError, match=r"holds no tokenizer: neither tokenizer\.json nor vocab\.json with merges\.txt is there"
    ):
        load(tmp_path)
    with pytest.raises(DataError, match=r"no tokenizer can be read from .*none"):
        load(tmp_path / "none")


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"format": 1, "config": 3}'])
def test_a_damaged_kind_file(saved, content):
    (saved / "kind.json").write_text(content)
    with pytest.raises(DataError, match=r"kind\.json is damaged"):
        load(saved)


def test_a_later_format(saved):
    (saved / "kind.json").write_text('{"format": 2, "config": {"type": "char"}}')
    with pytest.raises(DataError, match="has format 2, and this gptwright reads 1"):
        load(saved)


def test_an_unknown_kind(saved):
    (saved / "kind.json").write_text('{"format": 1, "config": {"type": "chars"}}')
    with pytest.raises(DataError, match="unknown tokenizer 'chars'; did you mean 'char'"):
        load(saved)


def test_an_unknown_setting(saved):
    (saved / "kind.json").write_text('{"format": 1, "config": {"type": "char", "size": 3}}')
    with pytest.raises(DataError, match="size"):
        load(saved)


@pytest.mark.parametrize("content", ["", "[]", '{"characters": "ba"}', '{"characters": 3}', '{"characters": ""}'])
def test_a_damaged_vocabulary(saved, content):
    (saved / "vocabulary.json").write_text(content)
    with pytest.raises(DataError, match=r"cannot be used: .*vocabulary\.json"):
        load(saved)


def test_a_missing_vocabulary(saved):
    (saved / "vocabulary.json").unlink()
    with pytest.raises(DataError, match=r"no readable vocabulary\.json"):
        load(saved)


def hugging_face_file(folder):
    library = Library(models.BPE(vocab={"a": 0, "Ġ": 1, "é": 2, "Ã": 3, "©": 4}, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.save(str(folder / "tokenizer.json"))


def test_a_foreign_tokenizer_json_alone(tmp_path):
    hugging_face_file(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    tokenizer = load(tmp_path)
    assert tokenizer.decode(tokenizer.encode("a aé")) == "a aé"
    assert tokenizer.type_name() == "pretrained"
    assert tokenizer.eot_id is None
    assert list(tokenizer.pieces("a a a a", 1)) == ["a a a a"]  # its splitting rule is not ours, so no cuts


def test_a_saved_bpe_that_is_not_byte_level(tmp_path):
    zoo.write(tmp_path, "wordpiece")
    (tmp_path / "kind.json").write_text('{"format": 1, "config": {"type": "bpe"}}')
    with pytest.raises(DataError, match="decodes by WordPiece"):
        load(tmp_path)


def test_a_damaged_tokenizer_json(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"the tokenizer in .* cannot be used: there is no readable tokenizer\.json"):
        load(tmp_path)


def test_a_kind_of_ones_own_needs_trust(tmp_path, monkeypatch):
    code = tmp_path / "shouting_tokenizer.py"
    code.write_text("from gptwright.tokenizer.kinds.byte import Byte\nclass Mine(Byte):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import shouting_tokenizer  # pyright: ignore[reportMissingImports]

    mine = shouting_tokenizer.Mine
    mine.train(mine.Config(), [], with_eot=True).save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/kind.json").read_text())["config"]["type"] == "shouting_tokenizer:Mine"
    with pytest.raises(DataError, match="--trust-code"):
        load(tmp_path / "saved")
    assert type(load(tmp_path / "saved", trust_code=True)) is mine
    del sys.modules["shouting_tokenizer"]


def test_the_maker_gives_each_kind_the_texts_it_learns_from(tmp_path):
    asked = []

    def texts(part):
        asked.append(part)
        return ["some text"]

    made = make_tokenizer(Char.Config(), texts, with_eot=True)
    made.save(tmp_path)
    again = make_tokenizer(Char.Config(), texts, with_eot=True, saved=tmp_path)
    make_tokenizer(Byte.Config(), texts, with_eot=False)
    assert asked == ["all", "train"]
    assert again.fingerprint == made.fingerprint
