"""Tokenizers of other models: id for id and letter for letter what transformers gives, and what is refused."""

import json
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models

from gptwright.errors import DataError
from gptwright.tokenizer import folder as files_of
from gptwright.tokenizer.kinds.pretrained import Pretrained
from gptwright.tokenizer.load import load

from . import zoo

transformers = pytest.importorskip("transformers", reason="the peer; it comes with gptwright[dev]")

MARKS = ["<s>", "</s>", "<|endoftext|>", "<tool>", "<eos>", "\n\n", "▁", "<0x41>", "</w>", "##e", "é<ß>", "[SEP]", "  "]
WILD = st.lists(
    st.one_of(st.sampled_from(MARKS), st.text("abeiostw IT'.,\n é日🎉1#", max_size=8), st.text()), max_size=6
)


@pytest.fixture(scope="module", params=zoo.ZOO)
def pair(request, tmp_path_factory):
    """Our tokenizer and transformers' own, of each family."""
    place = zoo.write(tmp_path_factory.mktemp("zoo"), request.param)
    return Pretrained.from_folder(place), transformers.AutoTokenizer.from_pretrained(place)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_ids_and_text_are_those_of_transformers(pair, data):
    (ours, theirs), text = pair, "".join(data.draw(WILD))
    for encode, split in ((ours.encode, True), (ours.encode_marked, False)):
        wanted = theirs(text, add_special_tokens=False, split_special_tokens=split).input_ids
        assert encode(text).tolist() == wanted
        assert ours.decode(wanted) == theirs.decode(wanted, clean_up_tokenization_spaces=False)
    ids, inside = ours.encode_spans(text, [(0, len(text))])
    assert ids.tolist() == wanted
    assert inside.all() or any(
        start == end for start, end in ours._marked.encode(text, add_special_tokens=False).offsets
    )


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_stream_joins_to_what_transformers_decodes(pair, data):
    ours, theirs = pair
    ids = data.draw(
        st.one_of(
            st.lists(st.integers(0, ours.vocab_size - 1), max_size=30),
            st.lists(st.integers(200, 275), max_size=30),  # where tokens are bytes of no ASCII
            WILD.map(lambda parts: ours.encode_marked("".join(parts)).tolist()),
        )
    )
    ids = [id for id in ids if id < ours.vocab_size]
    stream, wanted = ours.stream(), theirs.decode(ids, clean_up_tokenization_spaces=False)
    assert "".join(stream.push(id) for id in ids) + stream.flush() == wanted == ours.decode(ids)


def test_a_stream_does_not_wait_for_the_end(pair):
    ours, _ = pair
    ids, stream = ours.encode("it was the times").tolist(), ours.stream()
    early = "".join(stream.push(id) for id in ids)
    assert len(stream.flush()) <= 1
    assert early.strip() == ours.decode(ids).strip()


def test_how_texts_begin_and_end(pair):
    ours, theirs = pair
    whole, own = theirs("it").input_ids, ours.encode("it").tolist()
    assert whole[: len(ours.prefix_ids)] == list(ours.prefix_ids)
    assert whole[len(ours.prefix_ids) :][: len(own)] == own
    assert ours.eot_id == theirs.eos_token_id
    assert ours.vocab_size == len(theirs)
    assert ours.special_tokens == theirs.special_tokens_map


def test_token_bytes_are_those_of_the_text(pair):
    ours, _ = pair
    text = "it was the times"
    joined = b"".join(ours.token_bytes(int(id)) for id in ours.encode(text)).decode()
    if "<unk>" not in joined and "[UNK]" not in joined:
        assert joined.split() == text.split()
    assert len(ours._table) == ours.vocab_size


def test_what_is_saved_says_all(pair, tmp_path):
    ours, _ = pair
    ours.save(tmp_path / "a")
    again = load(tmp_path / "a")
    again.save(tmp_path / "b")
    text = "it was the café </s> 🎉"
    assert isinstance(again, Pretrained)
    assert again.encode(text).tolist() == ours.encode(text).tolist()
    assert again.encode_marked(text).tolist() == ours.encode_marked(text).tolist()
    for name in ("vocab_size", "eot_id", "end_ids", "prefix_ids", "special_tokens", "config", "fingerprint"):
        assert getattr(again, name) == getattr(ours, name)
    assert {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()
    }


def test_a_padded_vocabulary(tmp_path):
    ours = Pretrained.from_folder(zoo.write(tmp_path, "llama2"), vocab_size=400)
    ids = [*ours.encode("it was").tolist(), 399, *ours.encode("the").tolist(), 350]
    stream = ours.stream()
    assert ours.vocab_size == 400
    assert ours.token_bytes(399) == b""
    assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids) == "it was the"
    with pytest.raises(DataError, match="token id 400 is outside"):
        ours.decode([400])


def test_a_model_without_rows_for_added_tokens(tmp_path):
    place = zoo.write(tmp_path, "llama3", pad_token="<pad>")
    whole = Pretrained.from_folder(place)
    assert whole.decode([whole.vocab_size - 1]) == "<pad>"
    less = Pretrained.from_folder(place, vocab_size=whole.vocab_size - 2)
    assert less.vocab_size - 1 < whole.encode_marked("<tool>")[0]
    assert less.encode_marked("<tool><pad>").max() < less.vocab_size
    assert "pad_token" not in less.special_tokens
    with pytest.raises(DataError, match=r"has 320 tokens and the model only 300 rows"):
        Pretrained.from_folder(place, vocab_size=300)


@pytest.mark.parametrize(
    ("files", "given_", "ends"),
    [
        ({}, (), (1,)),
        ({"generation_config.json": {"eos_token_id": [1, 2, 999]}, "config.json": {"eos_token_id": 3}}, (), (1, 2)),
        ({"config.json": {"eos_token_id": 3}}, (), (1, 3)),
        ({"config.json": {"eos_token_id": None}, "generation_config.json": {}}, (4,), (1, 4)),
    ],
)
def test_all_ids_that_end_a_text(tmp_path, files, given_, ends):
    place = zoo.write(tmp_path, "llama3")
    for name, content in files.items():
        (place / name).write_text(json.dumps(content))
    assert Pretrained.from_folder(place, end_ids=given_).end_ids == ends


def test_named_tokens_of_the_older_files(tmp_path):
    place = zoo.write(tmp_path, "llama3")
    (place / "tokenizer_config.json").unlink()
    (place / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": {"content": "<|eot_id|>", "lstrip": False}})
    )
    assert Pretrained.from_folder(place).eot_id == 2
    (place / "special_tokens_map.json").unlink()
    assert Pretrained.from_folder(place).eot_id is None
    assert Pretrained.from_folder(place / "tokenizer.json").encode("it").size


def test_settings_that_add_tokens(tmp_path):
    more = {"321": {"content": "<a b>", "special": True}, "322": {"content": "<c>", "special": False}}
    place = zoo.write(tmp_path, "llama3", added_tokens_decoder=more, additional_special_tokens=["<d>"])
    ours, theirs = Pretrained.from_folder(place), transformers.AutoTokenizer.from_pretrained(place)
    for text in ("it<a b>was<c><d>", "<d><d>"):
        assert ours.encode(text).tolist() == theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ours.encode_marked(text).tolist() == theirs(text, add_special_tokens=False).input_ids


def merges_of(place, name):
    """Leave only vocab.json and merges.txt of a tokenizer."""
    zoo.write(place, name)
    library = Library.from_file(str(place / "tokenizer.json"))
    library.model.save(str(place))
    (place / "tokenizer.json").unlink()
    (place / "tokenizer_config.json").unlink()
    return place


@pytest.mark.parametrize(("name", "theirs"), [("gpt2", "GPT2Tokenizer"), ("gpt1", "OpenAIGPTTokenizer")])
def test_a_vocabulary_with_merges(tmp_path, name, theirs):
    place = merges_of(tmp_path, name)
    ours, peer = Pretrained.from_folder(place), getattr(transformers, theirs).from_pretrained(place)
    for text in ("It was the Best of times; café <|endoftext|> <unk>", "Don't  stop\n\n", "🎉"):
        ids = peer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ours.encode(text).tolist() == ids
        assert ours.encode_marked(text).tolist() == peer(text, add_special_tokens=False).input_ids
        assert ours.decode(ids) == peer.decode(ids, clean_up_tokenization_spaces=False)
    assert ours.eot_id == (0 if name == "gpt2" else None)
    ours.save(tmp_path / "saved")
    assert load(tmp_path / "saved").encode("the times").tolist() == ours.encode("the times").tolist()


def test_settings_of_a_vocabulary_with_merges(tmp_path):
    place = merges_of(tmp_path, "gpt2")
    (place / "tokenizer_config.json").write_text(
        json.dumps({"add_prefix_space": True, "add_bos_token": True, "bos_token": "<|endoftext|>"})
    )
    ours, peer = Pretrained.from_folder(place), transformers.GPT2Tokenizer.from_pretrained(place)
    assert [*ours.prefix_ids, *ours.encode("it was").tolist()] == peer("it was").input_ids
    fitted = ours.fitted(vocab_size=ours.vocab_size + 9, end_ids=[3])
    fitted.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.prefix_ids == fitted.prefix_ids == ours.prefix_ids
    assert (again.vocab_size, again.end_ids) == (ours.vocab_size + 9, (*ours.end_ids, 3))
    assert again.decode([ours.vocab_size + 8]) == ""


def test_a_decoder_that_looks_far_gives_its_text_at_the_end(tmp_path):
    library = Library(models.BPE({"a": 0, "b": 1, " ": 2}, []))
    library.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "x")])
    library.save(str(tmp_path / "tokenizer.json"))
    ours = Pretrained.from_folder(tmp_path)
    stream = ours.stream()
    assert [stream.push(id) for id in (2, 0, 1, 1)] == [""] * 4
    assert stream.flush() == " xb"
    assert ours.token_bytes(0) == b"a"


def test_what_is_stripped_at_the_beginning_may_be_several_tokens(tmp_path):
    library = Library(models.BPE({"▁": 0, "a": 1, "": 2}, []))
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 3, 0)])
    library.save(str(tmp_path / "tokenizer.json"))
    ours = Pretrained.from_folder(tmp_path)
    for ids in ([0, 0, 1, 0, 1], [2, 0, 0, 2, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0], [0]):
        stream = ours.stream()
        assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids)


def test_pieces_are_cut_only_where_that_is_safe(tmp_path):
    text = "it was the best of times\n" * 40
    for name in zoo.ZOO:
        ours = Pretrained.from_folder(zoo.write(tmp_path / name, name))
        pieces = list(ours.pieces(text, 30))
        assert (len(pieces) > 1) == (name == "gpt2")
        assert np.concatenate(ours.encode_batch(pieces)).tolist() == ours.encode(text).tolist()
    library = Library.from_file(str(tmp_path / "gpt2/tokenizer.json"))
    library.add_tokens(["best of"])
    library.save(str(tmp_path / "gpt2/tokenizer.json"))
    assert list(Pretrained.from_folder(tmp_path / "gpt2").pieces(text, 30)) == [text]


def test_half_a_surrogate_pair_is_named(tmp_path):
    ours = Pretrained.from_folder(zoo.write(tmp_path, "llama2"))
    for encode in (ours.encode, ours.encode_marked, lambda text: ours.encode_spans(text, [])):
        with pytest.raises(DataError, match=r"U\+D800 at character 2, half of a surrogate pair"):
            encode("It\ud800")


DAMAGED = ("", "[1, 2]", "{}", "[" * 100_000, "\x00\xff", '{"model": {"type": "BPE"}}')


@pytest.mark.parametrize("content", [*DAMAGED, '{"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}}'])
def test_a_tokenizer_that_is_none(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"the tokenizer in .* cannot be used: there is no readable tokenizer\.json \("):
        Pretrained.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_settings_that_are_none(tmp_path, name, content):
    zoo.write(tmp_path, "words")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name} (is no readable JSON|holds a JSON list)"):
        Pretrained.from_folder(tmp_path)


def test_nonsense_in_settings_is_passed_over(tmp_path):
    odd = {"added_tokens_decoder": {"x": 1, "7": 3}, "bos_token": 5, "chat_template": 3, "extra_special_tokens": 4}
    ours = Pretrained.from_folder(zoo.write(tmp_path, "gpt2", **odd))
    assert (ours.chat_template, ours.prefix_ids, "bos_token" in ours.special_tokens) == (None, (), False)


def test_links_out_of_the_folder_are_refused(tmp_path):
    secret = zoo.write(tmp_path / "elsewhere", "words") / "tokenizer.json"
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.json").symlink_to(secret)
    with pytest.raises(
        DataError, match=r"tokenizer\.json is a link to .*elsewhere/tokenizer\.json, outside of .*copy it there"
    ):
        Pretrained.from_folder(tmp_path / "model")
    (tmp_path / "model/tokenizer.json").unlink()
    (tmp_path / "model/tokenizer.json").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"cannot read .*tokenizer\.json: No such file"):
        Pretrained.from_folder(tmp_path / "model")


def test_settings_that_point_elsewhere_are_not_followed(tmp_path):
    secret = zoo.write(tmp_path / "elsewhere", "gpt2") / "tokenizer.json"
    place = zoo.write(tmp_path / "model", "words", tokenizer_file=str(secret))
    assert Pretrained.from_folder(place).vocab_size == 6
    (place / "tokenizer.json").unlink()
    with pytest.raises(
        DataError, match=r"says that the tokenizer is in '.*elsewhere.*', and only tokenizer\.json in the folder"
    ):
        Pretrained.from_folder(place)


def test_a_link_to_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "tokenizer.json").symlink_to("pipe")
    with pytest.raises(DataError, match=r"tokenizer\.json is no file, and a tokenizer's files must be"):
        Pretrained.from_folder(tmp_path)


def test_links_out_of_a_saved_tokenizer_are_refused(tmp_path):
    zoo.write(tmp_path / "elsewhere", "words")
    Pretrained.from_folder(tmp_path / "elsewhere").save(tmp_path / "saved")
    (tmp_path / "saved/tokenizer.json").unlink()
    (tmp_path / "saved/tokenizer.json").symlink_to(tmp_path / "elsewhere/tokenizer.json")
    with pytest.raises(DataError, match=r"is a link to .*elsewhere/tokenizer\.json, outside of"):
        load(tmp_path / "saved")


def test_ids_beyond_any_vocabulary(tmp_path):
    model = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1 << 30}, "unk_token": "<unk>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(DataError, match=r"ids up to 1,073,741,824, and no vocabulary is that large"):
        Pretrained.from_folder(tmp_path)


def test_links_of_the_hubs_cache_are_followed(tmp_path):
    made, cache = zoo.write(tmp_path / "made", "words"), tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots/1").mkdir(parents=True)
    for file in made.iterdir():
        os.rename(file, cache / "blobs" / file.name)
        (cache / "snapshots/1" / file.name).symlink_to(f"../../blobs/{file.name}")
    assert Pretrained.from_folder(cache / "snapshots/1").vocab_size == 6


def test_a_file_too_large_to_be_one(tmp_path, monkeypatch):
    zoo.write(tmp_path, "words")
    monkeypatch.setattr(files_of, "_MOST", 100)
    with pytest.raises(DataError, match=r"bytes, and no tokenizer's file has more than 100: give another"):
        Pretrained.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "qwen.tiktoken", "tekken.json"])
def test_kinds_that_must_be_converted(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00")
    with pytest.raises(
        DataError, match=rf"holds {name} and no tokenizer\.json: convert it first, .*AutoTokenizer.*save_"
    ):
        Pretrained.from_folder(tmp_path)
    if not name.endswith(".json"):
        with pytest.raises(DataError, match=rf"{name} is no tokenizer\.json: convert it first"):
            Pretrained.from_folder(tmp_path / name)


@pytest.mark.parametrize(
    ("vocabulary", "merges", "reason"),
    [
        ('{"a": 0, "b": 1}', "#version: 0.2\na c\n", r"do not belong together"),
        ('{"a": 0, "b": 1}', "a b c\n", r"merges\.txt has the line 'a b c', and each must hold two tokens"),
        ('{"a": "x"}', "", r"vocab\.json does not give each token a number"),
        ("[]", "", r"vocab\.json holds a JSON list"),
    ],
)
def test_a_damaged_vocabulary_with_merges(tmp_path, vocabulary, merges, reason):
    (tmp_path / "vocab.json").write_text(vocabulary)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(DataError, match=reason):
        Pretrained.from_folder(tmp_path)


def test_a_source_that_is_none(monkeypatch):
    with pytest.raises(DataError, match=r"learns nothing and needs data\.tokenizer\.source"):
        Pretrained.train(Pretrained.Config(), [], with_eot=True)
    with pytest.raises(
        DataError, match=r"there is no tokenizer folder \./none .*or owner/name of the Hugging Face hub"
    ):
        Pretrained.train(Pretrained.Config(source="./none"), [], with_eot=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        DataError, match=r"there is no folder owner/name, and .* huggingface_hub.* pip install 'gptwright\[hf\]'"
    ):
        Pretrained.train(Pretrained.Config(source="owner/name"), [], with_eot=True)


def test_a_source_of_the_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    place, asked = zoo.write(tmp_path, "words"), []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **how: asked.append((name, how)) or str(place))
    config = Pretrained.Config.from_dict({"type": "pretrained", "source": "owner/name", "end_ids": [2]})
    ours = Pretrained.train(config, [], with_eot=True)
    assert (asked[0][0], ours.config.source, ours.end_ids) == ("owner/name", None, (5, 2))
    assert not any(name.endswith((".py", ".safetensors", ".bin")) for name in asked[0][1]["allow_patterns"])

    def fails(name, **how):
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "snapshot_download", fails)
    with pytest.raises(DataError, match=r"there is no folder owner/name, .*owner/name could not be fetched .*no route"):
        Pretrained.train(config, [], with_eot=True)


def test_the_chat_template_and_where_it_stands(tmp_path):
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    place = zoo.write(tmp_path, "words", chat_template=named)
    assert Pretrained.from_folder(place).chat_template == "D"
    (place / "chat_template.jinja").write_text("J é")
    ours = Pretrained.from_folder(place)
    assert ours.chat_template == "J é" == transformers.AutoTokenizer.from_pretrained(place).chat_template
    ours.save(tmp_path / "saved")
    assert load(tmp_path / "saved").chat_template == "J é"
