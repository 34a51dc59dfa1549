"""What a check is about: the class that a name means, its settings, and a model that it fits into."""

import pytest

import gptwright as gw
from gptwright.check.models import components
from gptwright.check.subject import SLOTS, company, find, subjects
from gptwright.nn.attention.softmax import Softmax

from . import broken

HERE = broken.__name__

FITTING = '''
import torch
from gptwright import Attention, FeedForward
from gptwright.nn.base import Module
from pydantic import PositiveInt


class NeedsRate(FeedForward):
    class Config(FeedForward.Config):
        rate: PositiveInt
        """How much."""

        def check(self, ctx):
            if ctx.d_model % 48:
                yield "rate", f"rate {self.rate} asks for a d_model that divides by 48, not {ctx.d_model}"

    def forward(self, x, seq):
        return self.config.rate * x


class Refuses(FeedForward):
    def __init__(self, config, ctx):
        raise RuntimeError("never")


class Nothing(Module):
    pass
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "fitting_parts.py").write_text(FITTING)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind", "type_name"),
    [
        ("softmax", "attention", "softmax"),
        ("attention.softmax", "attention", "softmax"),
        ("position.rotary", "position", "rotary"),
        ("rms_norm", "norm", "rms_norm"),
        ("gptwright.nn.attention.softmax:Softmax", "attention", "gptwright.nn.attention.softmax:Softmax"),
        (f"{HERE}:MixesTokens", "feed_forward", f"{HERE}:MixesTokens"),
        (f"{HERE}:NormOverTokens", "norm", f"{HERE}:NormOverTokens"),
        (f"{HERE}:CountsPadding", "position", f"{HERE}:CountsPadding"),
        ("fitting_parts:NeedsRate", "feed_forward", "fitting_parts:NeedsRate"),
        ("fitting_parts.py:NeedsRate", "feed_forward", "fitting_parts:NeedsRate"),
    ],
)
def test_a_name_means_a_class_and_its_slot(folder, name, kind, type_name):
    found_kind, found, found_name = find(name)
    assert (found_kind, found_name) == (kind, type_name)
    assert found.__name__.lower().replace("_", "") == type_name.rpartition(":")[2].lower().replace("_", "")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "sofmax",
            "there is no component 'sofmax'; name a class of your own as package.module:Class or ",
        ),
        ("norm.softmax", "there is no component 'norm.softmax'; "),
        ("no_such_file:Thing", "'no_such_file:Thing' cannot be imported: ModuleNotFoundError"),
        ("fitting_parts:Thing", "module 'fitting_parts' has no class 'Thing'"),
        (
            "json:JSONDecoder",
            "'json:JSONDecoder' must be a class that extends Attention, FeedForward, Norm or ",
        ),
        (
            "fitting_parts:Nothing",
            "'fitting_parts:Nothing' extends gptwright.nn.base.Module alone, which fills no slot",
        ),
        (
            "fitting_parts:NeedsRate",
            "fitting_parts:NeedsRate cannot be built with no settings: feed_forward.rate: missing; give it a value "
            "(How much); give its settings as KEY=VALUE after its name, and those of the model around it as model.KEY=",
        ),
    ],
)
def test_what_is_wrong_with_a_name_is_said(folder, name, sentence):
    with pytest.raises(gw.GptwrightError) as refused:
        subjects(name, {}, {})
    assert sentence in str(refused.value)


def test_a_name_in_two_slots_must_say_which(monkeypatch):
    monkeypatch.setattr(type(SLOTS["norm"]), "names", lambda slot: ["twin"])
    with pytest.raises(gw.GptwrightError, match=r"'twin' may be attention\.twin or .*norm\.twin.*; say which"):
        find("twin")


def test_examples_of_the_class_are_used_unless_settings_are_given():
    own = subjects("softmax", {}, {})
    assert [subject.settings for subject in own] == [{"type": "softmax", **each} for each in Softmax.EXAMPLES]
    (given,) = subjects("softmax", {"n_heads": 2}, {"position": "rotary"})
    assert given.settings == {"type": "softmax", "n_heads": 2}
    assert given.build().config.position.type == "rotary"
    assert (given.said, subjects("mlp", {}, {})[0].said) == ("n_heads=2", "d_ff=48")


def test_the_model_takes_a_width_that_the_class_does_not_refuse(folder):
    (subject,) = subjects("fitting_parts:NeedsRate", {"rate": 2}, {})
    assert subject.around == {"d_model": 48}
    assert subject.build().config.d_model == 48
    with pytest.raises(gw.ConfigError, match="rate 2 asks for a d_model that divides by 48, not 64"):
        subjects("fitting_parts:NeedsRate", {"rate": 2}, {"d_model": 64})


def test_a_class_that_cannot_be_built_is_left_to_the_laws(folder):
    (subject,) = subjects("fitting_parts:Refuses", {}, {})
    assert subject.around == {"d_model": 32}


def test_every_part_of_a_model_is_looked_at():
    model = subjects("moe", {}, {"wiring": "sandwich", "embedding_norm": "rms_norm"})[0].build()
    assert [name for name, _, _ in components(model)] == [
        "position",
        *(
            f"layers.{index}.{name}"
            for index in range(2)
            for name in (
                "attention_norm",
                "attention_post_norm",
                "feed_forward_norm",
                "feed_forward_post_norm",
                "attention",
                "feed_forward",
            )
        ),
    ]


@pytest.mark.parametrize("name", ["softmax", "glu", "rms_norm", "rotary"])
def test_the_company_leaves_the_component_in_its_place(name):
    subject = subjects(name, {}, {})[0]
    for around in company(subject):
        model = subject.build(**around)
        used = {model.config.norm.type, model.config.position.type}
        used |= {part.type for index in range(model.config.n_layers) for part in model.config.layer(index)}
        assert name in used
