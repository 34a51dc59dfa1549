import json
import re

import pytest

from gptwright.config.fields import MISSING
from gptwright.config.schema import diff, json_schema


@pytest.fixture
def schema(room):
    return json_schema(room)


def test_it_is_json_and_every_reference_leads_somewhere(schema):
    text = json.dumps(schema)
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', text))
    assert references
    for reference in references:
        found = schema
        for part in reference.split("/"):
            found = found[part]
    assert "x-gptwright" not in text


def test_descriptions_and_defaults_are_there(schema):
    assert schema["properties"]["name"]["description"] == "What it is called."
    assert schema["properties"]["name"]["default"] == "hall"
    assert schema["properties"]["corners"]["default"] == {}
    assert schema["$defs"]["Size"]["required"] == ["width"]
    assert schema["additionalProperties"] is False


def test_a_slot_offers_its_whole_menu(schema):
    bare, *parts, own_name, own_class = schema["$defs"]["lamp"]["anyOf"]
    assert bare == {"enum": ["bulb", "chain"]}  # tube needs its length
    assert parts == [{"$ref": f"#/$defs/lamp.{name}"} for name in ("bulb", "chain", "tube")]
    assert re.match(own_name["pattern"], "my_file:MyLamp")
    assert own_class["required"] == ["type"]


def test_a_component_names_itself_and_its_settings(schema):
    tube = schema["$defs"]["lamp.tube"]
    assert tube["properties"]["type"]["const"] == "tube"
    assert tube["properties"]["length"]["description"] == "Length, in cm."
    assert tube["description"] == "A long one."
    assert tube["required"] == ["length"]
    assert schema["$defs"]["lamp.chain"]["properties"]["each"]["$ref"] == "#/$defs/lamp"


def test_the_type_may_be_left_out_only_where_there_is_a_default(schema):
    assert "required" not in schema["properties"]["lamp"]
    assert schema["$defs"]["Corner"]["properties"]["lamp"]["anyOf"][0]["required"] == ["type"]


def test_differences_are_found_at_every_depth():
    a = {"x": 1, "m": {"p": 1, "q": [1]}, "only": True, "flag": 1}
    b = {"x": 1, "m": {"p": 2, "q": [1], "r": 3}, "flag": True}
    assert diff(a, b) == [
        ("m.p", 1, 2),
        ("m.r", MISSING, 3),
        ("only", True, MISSING),
        ("flag", 1, True),
    ]
    assert diff(a, a) == []
