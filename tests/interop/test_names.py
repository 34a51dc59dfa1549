"""Other people's words lead to places that exist."""

import pytest

from gptwright.config.fields import Place
from gptwright.interop.names import COMPONENTS, PLACES, component, in_words_of, translate
from gptwright.model.config import ModelConfig
from gptwright.nn.slots import ATTENTION, FEED_FORWARD, NORM

SLOTS = {"attention": ATTENTION, "ffn": FEED_FORWARD, "norm": NORM, "feed_forward": FEED_FORWARD}


@pytest.mark.parametrize("place", sorted(set(PLACES.values())))
def test_every_place_exists(place):
    first, _, key = place.partition(".")
    assert Place(ModelConfig).child(first, {}) is not None
    if key:
        assert any(key in part.Config.model_fields for part in SLOTS[first].components().values())


@pytest.mark.parametrize("kind", COMPONENTS)
def test_every_component_exists(kind):
    for file, (there, ours) in COMPONENTS[kind].items():
        assert ours in SLOTS[kind].names()
        assert component(kind, file, there) == component(kind, file, None) == ours
    assert component(kind, "my.module", "Mine") == "my.module:Mine"


def test_words_are_put_in_their_places_over_a_base():
    base = {"attention": {"type": "softmax"}, "bias": True}
    found = translate({"n_embd": 8, "n_head": 2, "bias": False}, base)
    assert found == {"d_model": 8, "attention": {"type": "softmax", "n_heads": 2}, "bias": False}
    assert base == {"attention": {"type": "softmax"}, "bias": True}
    assert translate({"n_inner": 8}, {"feed_forward": "mlp"}) == {"feed_forward": {"type": "mlp", "d_ff": 8}}


def test_messages_speak_in_the_words_that_were_given():
    said = "attention.n_heads: n_heads 3 must divide d_model 8; use 2 or 4 heads, or set head_dim"
    assert in_words_of(said, {"n_head": 3, "n_embd": 8}) == "n_head: n_head 3 must divide n_embd 8; use 2 or 4 heads"
    assert in_words_of("my_d_model d_model.x d_model. d_model", {"dim": 8}) == "my_d_model d_model.x dim. dim"
