"""Text that fits a regular expression or a JSON schema, whatever the model would rather say."""

import json
import re
import sys

import pytest
import torch

from gptwright.errors import GptwrightError
from gptwright.generate.choose import Chooser, choose
from gptwright.generate.constraint import Constraint
from gptwright.generate.sampling import Sampling
from gptwright.tokenizer.kinds.bpe import Bpe
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char

from .. import tiny

SCHEMA = {
    "type": "object",
    "properties": {
        "zoo": {"enum": ["cat", "dog", "\u00e9\u4e16"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "ok": {"type": "boolean"},
    },
    "required": ["zoo", "age", "ok"],
    "additionalProperties": False,
}
TEXT = tiny.text(300) + '{"zoo": "cat\u00e9\u4e16", "age": 0123456789, "ok": true, false, null} []-+.eE\\/'


def byte(with_eot=True):
    return Byte(Byte.Config(), with_eot=with_eot)


def char(text=TEXT, with_eot=False):
    return Char.train(Char.Config(), [text], with_eot=with_eot)


@pytest.fixture(scope="module")
def bpe():
    return Bpe.train(Bpe.Config(vocab_size=400), [TEXT])


def allowed(constraint):
    return constraint.mask().nonzero().flatten().tolist()


def written(constraint, tokenizer, seed=0, most=300, vocab=None):
    """Return what a model that knows nothing writes, as the engine would have it."""
    vocab = vocab or tokenizer.vocab_size
    ends = () if tokenizer.eot_id is None else (tokenizer.eot_id,)
    chooser = Chooser(Sampling(temperature=1.0), (), vocab, seed, 0, ends, constraint)
    generator, ids = torch.Generator().manual_seed(seed), []
    for _ in range(most):
        (choice,) = choose(torch.randn(1, vocab, generator=generator), [chooser])
        if choice.token in ends:
            break
        ids.append(choice.token)
        if constraint.finished:
            break
    return tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte", "byte without end", "char", "char with end", "bpe"])
@pytest.mark.parametrize(
    "pattern", ["(cat|dog)s?", "[a-c]{3}-[0-9]{2}", "\u00e9\u4e16{1,2}", "the [a-z]{1,4}\\.", "a/b\n?"]
)
def test_any_tokenizer_follows_a_pattern(kind, pattern, bpe):
    tokenizer = {
        "byte": byte(),
        "byte without end": byte(False),
        "char": char(),
        "char with end": char(with_eot=True),
        "bpe": bpe,
    }[kind]
    found = [written(Constraint.regex(pattern, tokenizer), tokenizer, seed) for seed in range(5)]
    assert all(re.fullmatch(pattern, text) for text in found), found


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_any_tokenizer_follows_a_schema(kind, bpe):
    tokenizer = {"byte": byte(), "char": char(), "bpe": bpe}[kind]
    found = []
    for seed in range(5):
        found.append(json.loads(written(Constraint.json_schema(SCHEMA, tokenizer), tokenizer, seed)))
        assert list(found[-1]) == ["zoo", "age", "ok"]
        assert found[-1]["zoo"] in SCHEMA["properties"]["zoo"]["enum"]
        assert 0 <= found[-1]["age"] <= 99
    assert len({json.dumps(one) for one in found}) > 1


def test_properties_come_in_the_order_of_the_schema():
    for names in (["b", "a"], ["a", "b"]):
        schema = {"type": "object", "properties": {name: {"const": 1} for name in names}, "required": names}
        for given in ({**schema, "additionalProperties": False}, json.dumps({**schema, "additionalProperties": False})):
            found = written(Constraint.json_schema(given, byte(False)), byte(False))
            assert list(json.loads(found)) == names


def test_white_space_in_json_is_one_space_at_most():
    constraint = Constraint.json_schema(SCHEMA, byte())
    for token in b"{ ":
        assert token in allowed(constraint)
        constraint.take(token)
    assert allowed(constraint) == [ord('"')]


def test_it_may_end_where_it_fits_and_must_where_nothing_follows():
    with_end, without = (Constraint.regex("a+b?", byte(eot)) for eot in (True, False))
    assert allowed(with_end) == allowed(without) == [97]
    for constraint in (with_end, without):
        constraint.take(97)
        assert not constraint.finished
    assert allowed(with_end) == [97, 98, 256]
    assert allowed(without) == [97, 98]
    for constraint in (with_end, without):
        constraint.take(98)
        assert constraint.finished
    again = Constraint.regex("a+b?", byte())
    again.take(97)
    again.take(256)
    assert again.finished


def test_the_end_is_not_there_before_it_fits():
    constraint = Constraint.regex("ab", byte())
    constraint.take(97)
    assert allowed(constraint) == [98]


def test_parts_of_characters_are_tokens_like_any_other():
    constraint = Constraint.regex("[\u00e8\u00e9]", byte(False))
    first, second = "\u00e9".encode()
    assert allowed(constraint) == [first]
    constraint.take(first)
    assert allowed(constraint) == [second - 1, second]


def test_a_model_with_more_ids_than_its_tokenizer_never_takes_those_beyond():
    for tokenizer in (byte(), byte(False)):
        assert written(Constraint.regex("x{20}", tokenizer), tokenizer, vocab=5000) == "x" * 20
        assert len(Constraint.regex("x", tokenizer).mask()) == tokenizer.vocab_size


def test_many_ways_to_say_the_same_stay_open(bpe):
    constraint = Constraint.regex("the cat", bpe)
    assert {bpe.token_bytes(id) for id in allowed(constraint)} == {b"t", b"the"}


def test_a_fresh_one_begins_again_and_is_apart():
    one = Constraint.regex("ab", byte())
    one.take(97)
    other = one.fresh()
    assert allowed(one) == [98]
    assert allowed(other) == [97]


def test_a_token_that_was_not_allowed_is_refused():
    for token in (98, 256, 257, 10**6):
        with pytest.raises(GptwrightError, match=f"token {token} breaks the regular expression 'ab'"):
            Constraint.regex("ab", byte(False)).take(token)
    may_end = Constraint.regex("a+", byte(False))
    may_end.take(97)
    with pytest.raises(GptwrightError, match="token 256 breaks"):  # where the library sees an end, there is none
        may_end.take(256)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("a(", "the regular expression 'a(' cannot be used: unclosed group; give another"),
        ("(?=a)b", "look-around, including look-ahead and look-behind, is not supported"),
        ("", "the regular expression '' allows nothing but the empty text"),
        ("[^\\s\\S]", "it allows no text, or needs a character that the tokenizer cannot say"),
    ],
)
def test_a_bad_pattern_is_refused_in_a_sentence(pattern, sentence):
    for tokenizer in (byte(), byte(False)):
        with pytest.raises(GptwrightError) as error:
            Constraint.regex(pattern, tokenizer)
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ("{bad", "the JSON schema is no JSON (Expecting property name"),
        ("[1]", "the JSON schema is [1] and must be a JSON object; give one such as"),
        ({"enum": {1, 2}}, "the JSON schema is no JSON (Object of type set"),
        ({"type": "nonsense"}, "the JSON schema cannot be used: Invalid type: nonsense; give another"),
        ({"$ref": "#/$defs/x"}, "Pointer '/$defs/x' does not exist"),
        ({"not": {}}, 'Unimplemented keys: ["not"]'),
        ({"enum": []}, "Unsatisfiable schema"),
    ],
    ids=str,
)
def test_a_bad_schema_is_refused_in_a_sentence(schema, sentence):
    with pytest.raises(GptwrightError) as error:
        Constraint.json_schema(schema, byte())
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_character_that_the_tokenizer_cannot_say_is_named_as_the_trouble():
    sentence = "no token of this char tokenizer can come next under .*needs a character that the tokenizer cannot say"
    with pytest.raises(GptwrightError, match=sentence):
        Constraint.regex("zb", char("abc"))
    constraint = Constraint.regex("azb", char("abc"))
    constraint.take(0)
    with pytest.raises(GptwrightError, match=sentence):
        constraint.mask()


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(GptwrightError, match=r"need the package llguidance.*pip install 'gptwright\[constrain\]'"):
        Constraint.regex("a", byte())
