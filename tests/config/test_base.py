import json

import pytest
from pydantic import ValidationError

from gptwright.config.yaml import Source, dump, parse


def test_settings_go_to_plain_data_and_back(room):
    data = {
        "lamp": {"type": "chain", "each": {"type": "tube", "length": 3, "ends": ["a", "b"]}},
        "colours": ["red"],
        "corners": {"near": {"lamp": "bulb"}},
    }
    config = room.from_dict(data)
    assert config.colours == ("red",)
    assert config.to_dict() == json.loads(json.dumps(config.to_dict()))
    assert room.from_dict(config.to_dict()) == config
    node = parse(dump(config.to_dict()), Source("a.yaml"))
    assert node is not None
    assert room.from_dict(node.plain()) == config


def test_settings_do_not_change(room):
    with pytest.raises(ValidationError, match="frozen"):
        room().name = "x"


def test_the_default_component_is_meant_where_no_type_is_given(room):
    assert room.from_dict({"lamp": {"watts": 3}}).lamp.type == "bulb"
