from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwright.config.load import command_line, load
from gptwright.errors import ConfigError


def refused(room, path, overrides=(), **options):
    with pytest.raises(ConfigError) as caught:
        load(room, path, overrides, **options)
    return str(caught.value)


def test_a_file_over_defaults_and_arguments_over_the_file(room, write):
    write("a.yaml", "name: attic\nheated: true\n")
    found = load(room, "a.yaml", ["name=loft"])
    assert (found.config.name, found.config.heated, found.config.style) == ("loft", True, "plain")
    assert found.data == {"name": "loft", "heated": True}
    assert {path: str(place) for path, place in found.sources.items()} == {
        "name": "command line 'name=loft'",
        "heated": "a.yaml:2",
    }


def test_extends_is_merged_deeply_and_lists_replace(room, write):
    write("low.yaml", "size:\n  width: 3\n  height: 2.0\norder: [a, b]\n")
    write("sub/mid.yaml", "extends: ../low.yaml\nsize: {height: 4.0}\n")
    write("top.yaml", "extends: [sub/mid.yaml]\norder: [c]\n")
    found = load(room, "top.yaml")
    assert found.data == {"size": {"width": 3, "height": 4.0}, "order": ["c"]}
    assert str(found.sources["size.width"]) == "low.yaml:2"
    assert str(found.sources["size.height"]).endswith("mid.yaml:2")


def test_of_several_bases_the_later_wins(room, write):
    write("a.yaml", "name: a\nheated: true\n")
    write("b.yaml", "name: b\n")
    write("c.yaml", "extends: [a.yaml, b.yaml]\n")
    assert load(room, "c.yaml").data == {"name": "b", "heated": True}


def test_presets_are_found_by_bare_name(room, write, tmp_path):
    write("presets/large.yaml", "size: {width: 900}\n")
    write("presets/larger.yaml", "extends: large\nname: ballroom\n")
    write("mine/own.yaml", "extends: larger\n")
    search = [tmp_path / "presets"]
    assert load(room, "larger", search=search).config.size.width == 900
    assert load(room, "mine/own.yaml", search=search).config.name == "ballroom"
    assert refused(room, "lage", search=search) == (
        "there is no file 'lage' and no preset of that name; did you mean 'large'? (presets: large, larger)"
    )
    write("bad.yaml", "extends: lagre\n")
    assert refused(room, "bad.yaml", search=search).startswith(
        "bad.yaml:1: extends 'lagre', but there is no file 'lagre' and no preset of that name; did you mean"
    )


def test_a_circle_is_named(room, write):
    write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "name: x\nextends: a.yaml\n")
    assert refused(room, "a.yaml") == ("b.yaml:2: files extend each other in a circle: a.yaml -> b.yaml -> a.yaml")


@pytest.mark.parametrize("overrides", [["lamp.type=bulb"], ["lamp=bulb"], {"lamp": "bulb"}, {"lamp.type": "bulb"}])
def test_another_type_clears_what_the_lower_source_set(room, write, overrides):
    write("a.yaml", "lamp: {type: tube, length: 20, watts: 7}\n")
    found = load(room, "a.yaml", overrides)
    assert found.data == {"lamp": {"type": "bulb"}}
    (note,) = found.notes
    assert note.startswith("lamp.type is now 'bulb'")
    assert note.endswith("drops what was set for the component before it: length (a.yaml:1), watts (a.yaml:1)")


def test_the_same_type_keeps_them(room, write):
    write("a.yaml", "lamp: {type: tube, length: 20}\n")
    found = load(room, "a.yaml", ["lamp=tube", "lamp.watts=9"])
    assert found.data == {"lamp": {"type": "tube", "length": 20, "watts": 9}}
    assert found.notes == []


def test_a_type_clears_what_was_set_for_the_default_component(room, write):
    write("a.yaml", "lamp: {shade: red}\n")
    assert load(room, "a.yaml").config.lamp.type == "bulb"
    found = load(room, "a.yaml", ["lamp.type=chain"])
    assert found.data == {"lamp": {"type": "chain"}}
    assert "shade" in found.notes[0]


def test_settings_over_a_bare_name(room, write):
    write("a.yaml", "lamp: tube\ncorners: {near: {lamp: {type: chain, each: bulb}}}\n")
    found = load(room, "a.yaml", ["lamp.length=3", "corners.near.lamp.each.watts=5"])
    assert found.config.lamp.length == 3
    assert found.config.corners["near"].lamp.each.watts == 5
    assert str(found.sources["lamp.type"]) == "a.yaml:1"


def test_a_plain_string_over_a_plain_string(room, write):
    write("a.yaml", "name: a\nlamp: bulb\n")
    assert load(room, "a.yaml", ["name=b", "lamp=chain"]).data == {"name": "b", "lamp": "chain"}


def test_arguments_are_one_source(room):
    found = load(room, None, ["lamp.length=3", "lamp=tube", "lamp.length=4"])
    assert found.data == {"lamp": {"type": "tube", "length": 4}}
    assert found.notes == []


def test_nested_and_dotted_mappings_of_overrides(room):
    found = load(room, None, {"size": {"width": 3}, "size.height": 1.5})
    assert found.data == {"size": {"width": 3, "height": 1.5}}


def test_values_on_the_command_line_are_yaml(room):
    data = load(room, None, ["order=[a, b]", "size={width: 3, height: 1e1}", "heated=true", "lamp.shade="]).data
    assert data == {
        "order": ["a", "b"],
        "size": {"width": 3, "height": 10.0},
        "heated": True,
        "lamp": {"shade": None},
    }


def test_unknown_paths_are_caught_with_their_place(room, write):
    write("a.yaml", "name: x\nsize:\n  widht: 3\n")
    message = refused(room, "a.yaml", ["nmae=3", "lamp.wats=4"])
    assert message.splitlines() == [
        "4 settings are wrong:",
        "  size.width: missing; give it a value (Width of the floor, in cm) (size is at a.yaml:2)",
        "  size.widht: unknown key; did you mean 'width'? (a.yaml:3)",
        "  lamp.wats: unknown key of 'bulb'; did you mean 'watts'? (command line 'lamp.wats=4')",
        "  nmae: unknown key; did you mean 'name'? (command line 'nmae=3')",
    ]


def test_an_error_shows_what_a_new_type_cleared(room, write):
    write("a.yaml", "lamp: {type: bulb, watts: 3}\n")
    message = refused(room, "a.yaml", ["lamp=tube"])
    assert message.splitlines()[0].startswith("lamp.length: missing; give it a value (Length, in cm)")
    assert message.splitlines()[1].startswith("note: lamp.type is now 'tube'")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--size.width=3", "'--size.width=3' is not an option here; settings have no dashes: write size.width=3"),
        ("--fast", "'--fast' is not an option here; settings have no dashes: write fast=VALUE"),
        ("size.width", "'size.width' has no value; write a setting as size.width=VALUE"),
        ("size..width=3", "'size..width=3': 'size..width' is not a key; write words joined by dots, as in "),
        ("=3", "'=3': '' is not a key; write words joined by dots"),
        ("name=[a", "command line 'name=[a': the part after '=' is not valid YAML; put quotes inside: "),
        ("extends=b.yaml", "'extends=b.yaml': extends belongs in a file; name that file as CONFIG instead"),
    ],
)
def test_arguments_of_another_form(room, argument, sentence):
    assert refused(room, None, [argument]).startswith(sentence)


def test_a_setting_in_place_of_the_file(room):
    message = refused(room, "name=3")
    assert message == "'name=3' is a setting; name the file or preset first, then the settings"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "'a.yaml' is empty; it must hold settings, as in 'model: {d_model: 384}'"),
        (b"# nothing\n", "'a.yaml' is empty; it must hold settings"),
        (b"name: a\nstyle: \xff\n", "a.yaml:2: byte 15 (0xff) is not UTF-8 text; save the file as UTF-8"),
        (b"- a\n", "a.yaml:1: the file must hold a mapping of keys to values, as in 'model: {d_model: 384}', but "),
        (b"hello", "a.yaml:1: the file must hold a mapping of keys to values, as in 'model: {d_model: 384}', but "),
        (b"extends: 3\n", "a.yaml:1: extends must be a file name or a list of them, but is 3"),
        (b"extends: [x, {}]\n", "a.yaml:1: extends must be a file name or a list of them, but is ['x', {}]"),
        (b"extends: no.yaml\n", "a.yaml:1: extends 'no.yaml', but there is no file 'no.yaml'"),
    ],
)
def test_files_that_cannot_be_used(room, tmp_path, monkeypatch, content, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_bytes(content)
    assert refused(room, "a.yaml").startswith(sentence)


def test_files_that_are_not_there(room, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(room, "a.yaml") == "there is no file 'a.yaml'"
    assert refused(room, tmp_path) == f"'{tmp_path}' is a folder; name a YAML file"
    assert refused(room, "x" * 5000).startswith("there is no file 'xxx")


def test_a_byte_order_mark_is_no_part_of_the_settings(room, tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfname: a\n")
    assert load(room, tmp_path / "a.yaml").config.name == "a"


def test_a_component_of_ones_own_beside_the_file_that_names_it(room, write):
    code = "from lamp_base import Lamp\nclass Candle(Lamp):\n    class Config(Lamp.Config):\n        wax: str = 'bee'\n"
    write("deep/beside_candle.py", code)
    write("deep/low.yaml", "lamp: {type: 'beside_candle:Candle', wax: soy}\n")
    write("top.yaml", "extends: deep/low.yaml\n")
    assert load(room, "top.yaml").config.lamp.wax == "soy"
    assert "did you mean 'wax'" in refused(room, "top.yaml", ["lamp.wx=3"])


def test_code_is_not_imported_from_an_untrusted_file(room, write):
    write("untrusted_lamp.py", "raise SystemExit('this ran')\n")
    write("a.yaml", "lamp: {type: 'untrusted_lamp:Lamp'}\n")
    message = refused(room, "a.yaml", trust_code=False)
    assert message.startswith("lamp: lamp 'untrusted_lamp:Lamp' would import code named by a saved folder; pass ")
    assert message.endswith("(a.yaml:1)")


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_any_argument_is_read_or_refused(argument):
    with suppress(ConfigError):
        assert isinstance(command_line([argument]).plain(), dict)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3}){0,2}=[a-z0-9]{1,3}", fullmatch=True)))
def test_the_last_argument_for_a_key_wins(arguments):
    data = command_line(arguments).plain()
    if arguments:
        key, _, text = arguments[-1].partition("=")
        for part in key.split("."):
            data = data[part]
        if isinstance(data, dict):  # a bare name laid over the settings of a component is its type
            data = data["type"]
        assert data == load_value(text)


def load_value(text):
    return command_line([f"x={text}"]).plain()["x"]
