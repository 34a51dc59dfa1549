"""Vocabularies in GGUF files, and those that cannot be there."""

import json

import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from gptwright.errors import Unsupported
from gptwright.interop.gguf.merges import merge_scores
from gptwright.interop.gguf.splitting import adds_space, splitting
from gptwright.interop.gguf.vocabulary import CONTROL, UNUSED, vocabulary_of
from gptwright.interop.gguf.write import write_gguf
from gptwright.tokenizer.kinds.bpe import Bpe
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char

from .models import trained

gguf = pytest.importorskip("gguf", reason="reading GGUF back needs gguf: pip install 'gptwright[gguf]'")
TEXT = "the cat sat on the mat, the other cat ran\n" * 20
SPLIT = {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def of_library(**how):
    library = Library(models.BPE())
    library.pre_tokenizer = how.get("split", pre_tokenizers.ByteLevel(add_prefix_space=False))
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return Bpe(Bpe.Config.from_dict({}), library)


def test_bpe_is_gpt2s_kind_with_its_merges_and_padding(tmp_path):
    tokenizer = Bpe.train(Bpe.Config(vocab_size=290), [TEXT])
    size = tokenizer.vocab_size + 2
    write_gguf(trained({"vocab_size": size}, tokenizer), tmp_path / "m.gguf", dtype="q8_0", name="small cat")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    table = json.loads(tokenizer.contents()["tokenizer.json"])["model"]
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert {token: tokens.index(token) for token in table["vocab"]} == table["vocab"]
    assert tokens[-2:] == [f"[PAD{size - 2}]", f"[PAD{size - 1}]"]
    assert fields["tokenizer.ggml.merges"].contents() == [" ".join(pair) for pair in table["merges"]]
    assert fields["tokenizer.ggml.token_type"].contents()[tokenizer.eot_id] == CONTROL
    assert fields["tokenizer.ggml.token_type"].contents()[-1] == UNUSED
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eot_id
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["general.name"].contents() == "small cat"


def test_bytes_and_characters_are_tokens_that_no_merge_is_needed_for():
    byte = vocabulary_of(Byte(Byte.Config(), with_eot=True), 259)
    assert byte.model == "rwkv"
    assert byte.tokens[10] == "\\x0a"
    assert byte.tokens[0xE9] == "\\xe9"
    assert byte.tokens[92] == "\\x5c"
    assert byte.tokens[97] == "a"
    assert byte.types[256:] == [CONTROL, UNUSED, UNUSED]
    assert byte.end == (256,)
    char = vocabulary_of(Char.train(Char.Config(), ["aé\n日"], with_eot=False), 4)
    assert char.tokens == ["\\x0a", "a", "é", "日"]
    assert char.end == ()


def test_a_model_without_a_tokenizer_takes_ids():
    found = vocabulary_of(None, 10)
    assert found.model == "none"
    assert "ids alone" in found.notes[0]


def test_more_tokens_than_ids_are_refused():
    with pytest.raises(Unsupported, match="the tokenizer has 257 tokens and the model's vocab_size is 200"):
        vocabulary_of(Byte(Byte.Config(), with_eot=True), 200)


def test_rules_of_splitting_are_known_by_their_expressions():
    def of(*steps, ignore=False, normalizer=None):
        split = {"type": "Sequence", "pretokenizers": [*steps]}
        return splitting({"pre_tokenizer": split, "model": {"ignore_merges": ignore}, "normalizer": normalizer})

    qwen, llama = ({**SPLIT, "pattern": {"Regex": text}} for text in (QWEN, QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")))
    assert of(qwen, BYTES) == "qwen2" == of(qwen, BYTES, normalizer={"type": "NFC"})
    assert of(llama, BYTES, ignore=True) == "llama-bpe"
    assert of(llama, BYTES) is None
    assert of({**BYTES, "use_regex": True}) == "gpt-2"
    assert of({"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}) == "smollm"
    assert of(qwen, BYTES, normalizer={"type": "Lowercase"}) is None
    assert of({**SPLIT, "pattern": {"Regex": r"\w+"}}, BYTES) is None


def test_a_rule_of_ones_own_is_refused():
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\w+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer = of_library(split=split)
    with pytest.raises(Unsupported, match=r"splits text by a rule that llama.cpp does not know .*export with --to hf"):
        vocabulary_of(tokenizer, tokenizer.vocab_size)


def test_a_tokenizer_without_an_end_is_told_of():
    tokenizer = of_library()
    assert "no token that ends a text" in vocabulary_of(tokenizer, tokenizer.vocab_size).notes[0]


def test_scores_say_what_ranks_say_or_are_refused():
    ids = {token: id for id, token in enumerate(("a", "b", "c", "ab", "bc", "abc"))}
    closed = [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]
    scores = merge_scores(ids, closed)
    assert scores[3] > scores[4] > scores[5]
    with pytest.raises(Unsupported, match="ranks say of 'abc': 'a' and 'bc' join to it, and are no merge"):
        merge_scores(ids, closed[:-1])
    with pytest.raises(Unsupported, match="ranks say of 'bc': its merges stand among those of 'abc'"):
        merge_scores(ids, [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")])


def test_sentencepiece_like_tokenizers_say_whether_a_space_comes_first():
    assert adds_space({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}})
    assert adds_space({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"}})
    assert not adds_space({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}, "normalizer": None})
