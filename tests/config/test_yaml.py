import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwright.config.yaml import Source, dump, parse
from gptwright.errors import ConfigError

FILE = Source("a.yaml")


def plain(text):
    node = parse(text, FILE)
    return None if node is None else node.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e4", 10000.0),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", 1000),
        ("-12", -12),
        ("~", None),
        ("null", None),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'3'", "3"),
        ("-.inf", -math.inf),
        ("{a: [1, {b: c}]}", {"a": [1, {"b": "c"}]}),
        ("&x {a: 1}", {"a": 1}),
        ("[&x 1, *x]", [1, 1]),
    ],
)
def test_values_follow_yaml_1_2(text, value):
    found = plain(text)
    assert found == value
    assert type(found) is type(value)


def test_every_value_knows_its_line():
    node = parse("a:\n  b: 1\n  c:\n  - x\n  - y\n", FILE)
    assert node is not None
    places = {path: str(child.source) for path, child in node.walk()}
    assert places == {
        (): "a.yaml:1",
        ("a",): "a.yaml:1",
        ("a", "b"): "a.yaml:2",
        ("a", "c"): "a.yaml:3",
        ("a", "c", "0"): "a.yaml:4",
        ("a", "c", "1"): "a.yaml:5",
    }


def test_nothing_is_none():
    assert parse("", FILE) is None
    assert parse("# only a comment\n", FILE) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3", "a.yaml:3: the key 'a' is written twice (first at a.yaml:1); keep one"),
        ("a: 1\n\tb: 2", "a.yaml:2: a tab stands where YAML allows only spaces; indent with spaces"),
        ("a: [1", "a.yaml:1, column 6: not valid YAML: while parsing a flow sequence"),
        ("a: !!python/object:os.system x", "a.yaml:1: the tag !!python/object:os.system is not used in settings"),
        ("a: !thing {b: 1}", "a.yaml:1: the tag !thing is not used in settings; remove it"),
        ("a: !!int x", "a.yaml:1: 'x' cannot be read as int"),
        ("a: &x [*x]", "a.yaml:1: the alias refers to a value that contains itself"),
        ("<<: {a: 1}", "a.yaml:1: YAML 1.2 has no merge key '<<'; use 'extends: other.yaml' instead"),
        ("[a, b]: 1", "a.yaml:1: a key must be a word, as in 'd_model: 384'"),
        ("a: 1\n---\nb: 2", "a.yaml:2, column 1: not valid YAML: expected a single document"),
        ("a: \x00", "a.yaml: not valid YAML: unacceptable character"),
        ("[" * 3000, "a.yaml: the settings are nested too deeply to be read"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(text, sentence):
    with pytest.raises(ConfigError) as caught:
        plain(text)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_aliases_cannot_explode():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 100000 values"):
        plain("\n".join(levels))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.text(st.characters(categories=("L", "N")), min_size=1)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_reads_back(data):
    assert plain(dump(data)) == data


@settings(deadline=None, max_examples=50)
@given(st.floats() | st.text())
def test_numbers_keep_their_type(value):
    found = plain(dump({"a": value}))["a"]
    assert type(found) is type(value)
    assert found == value or (found != found and value != value)


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_any_text_is_read_or_refused(text):
    message = "a.yaml"
    try:
        plain(text)
    except ConfigError as error:
        message = str(error)
    assert message.startswith("a.yaml")


def test_remarks_stand_at_the_end_of_their_line():
    text = dump({"a": {"b": [1, 2], "c": None}}, {"a.b": "here", "a.c": "there"})
    assert [line.split() for line in text.splitlines()] == [
        ["a:"],
        ["b:", "[1,", "2]", "#", "here"],
        ["c:", "null", "#", "there"],
    ]
    assert plain(text) == {"a": {"b": [1, 2], "c": None}}
