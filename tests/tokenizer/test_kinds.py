"""Every kind of tokenizer: exact round trips, streams, saves, and sentences for what it cannot do."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwright.errors import DataError
from gptwright.tokenizer.base import EOT, Tokenizer
from gptwright.tokenizer.kinds.bpe import Bpe, Library
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char
from gptwright.tokenizer.load import SLOT, load

from . import zoo

TEXT = "It was the best of times, it was the worst of times; café — 日本語 🎉\r\n\tend.\n" * 8

FOLDER = TemporaryDirectory()
SOURCE = str(zoo.write(Path(FOLDER.name), "gpt2"))


def make(name: str, *, with_eot: bool = True, text: str = TEXT) -> Tokenizer:
    kind = SLOT.resolve(name)
    given = {"source": SOURCE} if name == "pretrained" else kind.EXAMPLES[0]
    config = kind.Config.from_dict(given)
    return kind.train(config, [text], with_eot=with_eot)


MADE = {name: make(name) for name in SLOT.names()}
ANY = st.text()
OWN = st.text(alphabet=sorted(set(TEXT)))


def texts_for(name: str) -> st.SearchStrategy[str]:
    return OWN if name == "char" else ANY


def test_the_menu_is_the_folder():
    assert SLOT.names() == ["bpe", "byte", "char", "pretrained"]


@pytest.mark.parametrize("name", MADE)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_decode_gives_back_what_encode_took(name, data):
    tokenizer, text = MADE[name], data.draw(texts_for(name))
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", MADE)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_stream_gives_what_decode_gives_for_any_ids(name, data):
    tokenizer = MADE[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    stream = tokenizer.stream()
    shown = [stream.push(id) for id in ids]
    assert "".join(shown) + stream.flush() == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["byte", "bpe"])
def test_stream_holds_a_character_back_until_it_is_complete(name):
    tokenizer = MADE["byte"] if name == "byte" else make("bpe", text="plain ascii " * 20)
    stream = tokenizer.stream()
    assert [stream.push(int(id)) for id in tokenizer.encode("🎉")] == ["", "", "", "🎉"]
    assert stream.flush() == ""


def test_a_character_never_completed_is_flushed_as_replacement():
    stream = MADE["byte"].stream()
    assert stream.push(0xF0) == ""
    assert stream.flush() == "\ufffd"
    assert MADE["byte"].decode([0xF0, 65]) == "\ufffdA"


@pytest.mark.parametrize("name", MADE)
def test_token_bytes_joined_are_the_text(name):
    tokenizer = MADE[name]
    assert b"".join(tokenizer.token_bytes(int(id)) for id in tokenizer.encode(TEXT)) == TEXT.encode()


@pytest.mark.parametrize("name", MADE)
def test_a_save_reads_back_the_same(name, tmp_path):
    tokenizer = MADE[name]
    tokenizer.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert type(again) is type(tokenizer)
    assert again.config == tokenizer.config
    assert (again.vocab_size, again.eot_id) == (tokenizer.vocab_size, tokenizer.eot_id)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


@pytest.mark.parametrize("name", MADE)
def test_training_twice_gives_the_same_and_other_text_another(name):
    assert make(name).fingerprint == MADE[name].fingerprint
    if name not in ("byte", "pretrained"):
        assert make(name, text="another text altogether " * 9).fingerprint != MADE[name].fingerprint


def test_sizes_and_end_of_text():
    assert (make("byte", with_eot=False).vocab_size, make("byte", with_eot=False).eot_id) == (256, None)
    assert (MADE["byte"].vocab_size, MADE["byte"].eot_id) == (257, 256)
    plain = make("char", with_eot=False, text="hello")
    assert isinstance(plain, Char)
    assert (plain.characters, plain.vocab_size, plain.eot_id) == ("ehlo", 4, None)
    assert make("char", text="hello").eot_id == 4
    assert make("bpe", with_eot=False).eot_id is not None
    for tokenizer in MADE.values():
        assert tokenizer.decode([tokenizer.eot_id]) == EOT


@pytest.mark.parametrize("name", ["byte", "bpe", "pretrained"])
def test_the_words_of_the_end_of_text_token_are_only_text(name):
    tokenizer = MADE[name]
    ids = tokenizer.encode(f"a{EOT}b")
    assert tokenizer.eot_id not in ids
    assert tokenizer.decode(ids) == f"a{EOT}b"


@pytest.mark.parametrize("name", MADE)
def test_what_a_template_wrote_may_hold_control_tokens(name):
    tokenizer = MADE[name]
    a, b = tokenizer.encode("t").tolist(), tokenizer.encode("it").tolist()
    assert tokenizer.encode_marked(f"t{EOT}it{EOT}").tolist() == [*a, tokenizer.eot_id, *b, tokenizer.eot_id]
    ids, inside = tokenizer.encode_spans(f"t{EOT}it", [(1, 1 + len(EOT))])
    assert (ids.tolist(), inside.tolist()) == ([*a, tokenizer.eot_id, *b], [*[False] * len(a), True, *[False] * len(b)])
    assert tokenizer.encode_spans("it", [])[1].tolist() == [False] * len(b)
    assert (tokenizer.end_ids, tokenizer.prefix_ids, tokenizer.chat_template) == ((tokenizer.eot_id,), (), None)
    assert tokenizer.special_tokens == {"bos_token": EOT, "eos_token": EOT}


def test_without_an_end_of_text_there_is_nothing_special():
    tokenizer = make("byte", with_eot=False)
    assert tokenizer.encode_marked(EOT).tolist() == list(EOT.encode())
    assert (tokenizer.end_ids, tokenizer.special_tokens) == ((), {})


@pytest.mark.parametrize("name", MADE)
def test_nothing_is_no_tokens(name):
    tokenizer = MADE[name]
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("").dtype == np.int64
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("wrong", [-1, 100_000])
def test_an_id_outside_is_named(name, wrong):
    with pytest.raises(DataError, match=rf"token id {wrong} is outside this {name} tokenizer's ids 0 to \d+"):
        MADE[name].decode([0, wrong])


@pytest.mark.parametrize("name", MADE)
def test_half_a_surrogate_pair_is_named(name):
    with pytest.raises(DataError, match=r"U\+D800 at character 2, half of a surrogate pair"):
        MADE[name].encode("It\ud800")


def test_an_unknown_character_is_named():
    with pytest.raises(DataError, match=r"'é' \(U\+00E9\) at position 3 is not among the 3 .* byte or bpe"):
        make("char", text="caf").encode("café")
    with pytest.raises(DataError, match="'b'"):  # between known code points, not beyond them
        make("char", text="ac").encode("abc")


def test_char_refuses_to_learn_from_nothing():
    with pytest.raises(DataError, match="no text at all"):
        make("char", text="")


def test_char_reports_progress():
    told = []
    Char.train(Char.Config(), ["abc", "de"], with_eot=False, progress=lambda *what: told.append(what))
    assert told == [("tokenizer", 3, None), ("tokenizer", 5, None)]


# Runs of white space are tokens of this one, so that a cut inside a run would show.
SPACED = make("bpe", text="a  b   c\n\nd \n  e\t\tf \n\n\n    don't it's 'll 12  .\n ,\n\n" * 20)


WORDS = ["a", "b", "do", "don't", "it's", "'ll", "12", ".", ",", " ", "  ", "   ", "\n", "\n\n", " \n", "\n "]
EXOTIC = list("\r\t\x0b\x0c\x1c\x85\xa0\u1680\u180e\u200b\u2028\u3000\ufeff_é日。\u0301🎉")
AWKWARD = st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(EXOTIC), ANY), max_size=60).map("".join)


@given(text=AWKWARD, size=st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_bpe_in_pieces_is_bpe_of_the_whole(text, size):
    tokenizer = SPACED
    assert isinstance(tokenizer, Bpe)
    pieces = list(tokenizer.pieces(text, size))
    assert "".join(pieces) == text
    parts = tokenizer.encode_batch(pieces)
    whole = tokenizer._library.encode(text, add_special_tokens=False).ids
    assert [id for part in parts for id in part.tolist()] == whole


@pytest.mark.parametrize("text", ["x" * 500, " " * 500, "a \n" * 200, "don't  stop\n\n  'll " * 40, "日本 語\n" * 99])
def test_bpe_in_pieces_on_long_runs(text):
    tokenizer = SPACED
    assert isinstance(tokenizer, Bpe)
    parts = tokenizer.encode_batch(list(tokenizer.pieces(text, 7)))
    whole = tokenizer._library.encode(text, add_special_tokens=False).ids
    assert [id for part in parts for id in part.tolist()] == whole


def test_bpe_cuts_long_text_where_it_can():
    pieces = list(MADE["bpe"].pieces("one two three\nfour " * 100, 50))
    assert len(pieces) > 30
    assert all(piece[0] in " \n" for piece in pieces[1:])


@pytest.mark.parametrize("name", ["byte", "char"])
def test_pieces_of_the_simple_kinds(name):
    pieces = list(MADE[name].pieces(TEXT, 100))
    assert "".join(pieces) == TEXT
    assert max(map(len, pieces)) == 100


def test_bpe_learns_at_most_its_size_and_reports_progress():
    told = []
    config = Bpe.Config(vocab_size=280)
    tokenizer = Bpe.train(config, ["low lower lowest " * 50], progress=lambda *what: told.append(what))
    assert 257 < tokenizer.vocab_size <= 280
    assert len(tokenizer.encode("lower")) < 5
    assert told[-1] == ("tokenizer", 850, None)


def test_bpe_of_a_long_text_learns_what_it_learns_from_its_pieces(monkeypatch):
    text = "the cat  sat\n on the mat, the cat\n" * 40
    whole = Bpe.train(Bpe.Config(vocab_size=300), [text])
    monkeypatch.setattr("gptwright.tokenizer.kinds.bpe._PIECE", 30)
    assert Bpe.train(Bpe.Config(vocab_size=300), [text]).fingerprint == whole.fingerprint


def test_bpe_size_has_a_floor():
    from gptwright.errors import ConfigError

    with pytest.raises(ConfigError, match="vocab_size"):
        Bpe.Config.from_dict({"vocab_size": 256})


def test_bpe_is_saved_as_the_librarys_own_file(tmp_path):
    MADE["bpe"].save(tmp_path)
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    assert library.decode(MADE["bpe"].encode("It was the café").tolist()) == "It was the café"


def test_byte_ids_are_the_bytes():
    assert MADE["byte"].encode("é!").tolist() == [0xC3, 0xA9, 0x21]
    assert isinstance(MADE["byte"], Byte)
