import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwright.config.report import did_you_mean
from gptwright.errors import ConfigError


def refused(root, data):
    with pytest.raises(ConfigError) as caught:
        root.from_dict(data)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"name": 3.5}, "name: must be text, but is 3.5; put it in quotes"),
        ({"name": None}, "name: must be text, but is empty (null)"),
        ({"heated": "on"}, "heated: must be true or false, but is 'on'"),
        ({"size": 3}, "size: must be a mapping of settings, not a single value, but is 3"),
        ({"size": {"width": "abc"}}, "size.width: must be a whole number, but is 'abc'"),
        ({"size": {"width": "3"}}, "size.width: must be a whole number, but is '3'; leave out the quotes"),
        ({"size": {"width": 1e3}}, "size.width: must be a whole number, but is 1000.0; write 1000"),
        ({"size": {"width": True}}, "size.width: must be a whole number, but is true"),
        ({"size": {"width": 0}}, "size.width: must be more than 0, but is 0"),
        ({"size": {}}, "size.width: missing; give it a value (Width of the floor, in cm)"),
        ({"size": {"width": 1, "height": float("inf")}}, "size.height: must be a finite number, not infinity or nan"),
        ({"lamp": {"type": "bulb", "watts": 501}}, "lamp.watts: must be at most 500, but is 501"),
        ({"lamp": "blub"}, "lamp: unknown lamp 'blub'; did you mean 'bulb'? (known: bulb, chain, tube, or "),
        ({"lamp": 3}, "lamp: must name the lamp to use: one of bulb, chain, tube, or a mapping with 'type'"),
        ({"lamp": "tube"}, "lamp.length: missing; give it a value (Length, in cm)"),
        ({"lamp": {"wats": 3}}, "lamp.wats: unknown key of 'bulb'; did you mean 'watts'?"),
        ({"lamp": {"xyz": 3}}, "lamp.xyz: unknown key of 'bulb' (known: shade, type, watts)"),
        ({"order": "a"}, "order: must be a list, as in [a, b], but is 'a'"),
        ({"order": ["a", 1]}, "order.1: must be text, but is 1; put it in quotes"),
        ({"colours": 3}, "colours: must be a list, as in [a, b], but is 3"),
        ({"style": "gothic"}, "style: must be one of 'plain', 'ornate', but is 'gothic'"),
        ({"doors": "x"}, "doors: must be a whole number or 'auto', but is 'x'"),
        ({"corners": {1: {}}}, "a key of corners.1: must be text, but is 1; put it in quotes"),
        ({"corners": {"a": {"lamp": {"type": "tube"}}}}, "corners.a.lamp.length: missing; give it a value (Length"),
        (
            {"lamp": {"type": "tube", "length": 3, "ends": ["red"]}},
            "lamp.ends.1: missing; give it a value",
        ),
        (
            {"lamp": {"type": "chain", "each": {"type": "tube", "lenght": 3, "length": 3}}},
            "lamp.each.lenght: unknown key of 'tube'; did you mean 'length'?",
        ),
        ({"size.width": 3}, "size.width: unknown key; in a file, write the parts one inside the other"),
        ({"name": "cellar", "heated": True}, "a cellar cannot be heated; choose another name or heated: false"),
        ({"name": "x" * 9, "style": "y" * 200}, "style: must be one of 'plain', 'ornate', but is 'yyy"),
        ([], "settings must be a mapping of keys to values, but are []"),
    ],
)
def test_one_problem_is_one_line(room, data, sentence):
    message = refused(room, data)
    assert message.startswith(sentence)
    assert "\n" not in message
    assert len(message) < 250


def test_all_problems_are_told_at_once(room):
    lines = refused(room, {"size": {"width": -1}, "sise": 3, "lamp": {"type": "tube", "watts": 0}}).splitlines()
    assert lines[0] == "4 settings are wrong:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  size.width", "  lamp.watts", "  lamp.length", "  sise"]


def test_a_class_that_is_no_component(room):
    assert "must be a class that extends lamp_base.Lamp" in refused(room, {"lamp": "collections:OrderedDict"})
    assert "module 'collections' has no class 'Oderdict'" in refused(room, {"lamp": "collections:Oderdict"})
    assert "cannot be imported: ModuleNotFoundError" in refused(room, {"lamp": "no_such_module:Lamp"})
    assert "for a class in my_file.py beside your settings, my_file:MyClass" in refused(room, {"lamp": "x.py:Lamp"})


@settings(deadline=None, max_examples=50)
@given(st.text(), st.lists(st.text()))
def test_did_you_mean_always_answers(word, known):
    hint = did_you_mean(word, known)
    assert hint == "" or any(repr(name)[1:-1] in repr(hint) for name in known)


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["name", "size", "lamp", "corners", "order", "colours", "style", "doors", "heated", "nme"]


@settings(deadline=None, max_examples=50)
@given(data=st.dictionaries(st.sampled_from(FIELDS), WILD))
def test_any_data_is_read_or_explained(data):
    from room import Room

    message = ""
    try:
        Room.from_dict(data)
    except ConfigError as error:
        message = str(error)
    assert "Input should" not in message
    assert "pydantic" not in message
