"""What every component offers by itself: every law, its settings, and saying no."""

import json

import pytest
import torch

import gptwright as gw
from gptwright.check.compiled import compiled_equals_eager
from gptwright.check.gradients import everything_learns
from gptwright.check.laws import RESTS_ON
from gptwright.check.measure import same
from gptwright.check.models import BASE, build
from gptwright.config.slot import Component
from gptwright.nn.base import LayerContext

from . import parts
from .parts import as_params, every_component, label

EVERY = list(every_component())
every = pytest.mark.parametrize(("kind", "settings"), EVERY, ids=[f"{kind}-{label(found)}" for kind, found in EVERY])
PARTS = {"attention": "layers.0.attention", "feed_forward": "layers.0.feed_forward"}
PARTS |= {"norm": "layers.0.attention_norm", "position": "position"}
LAWS = [law for law in RESTS_ON if law not in (compiled_equals_eager, everything_learns)]  # see below, and test_compile


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("settings", as_params(parts.alone()))
def test_law(settings, law):
    law(build(settings))


@every
def test_every_parameter_learns(kind, settings):
    everything_learns(build({kind: settings}))


def part_of(kind: str, settings: dict) -> tuple[Component, LayerContext]:
    """Return the component inside a model built with it, and its surroundings."""
    model = build({kind: settings})
    return model.get_submodule(PARTS[kind]), model.config.context(0)


def given(kind: str, x: torch.Tensor) -> tuple:
    return (x,) if kind == "norm" else (x, gw.Sequence.plain(*x.shape[:2]))


def test_every_slot_has_examples_for_every_component():
    for kind, slot in parts.SLOTS.items():
        names = {settings["type"] for found, settings in EVERY if found == kind}
        assert names >= set(slot.names())


def test_every_extra_is_among_the_combinations():
    extras = {"residual_scale", "layer_scale", "value_residual", "embedding_norm", "logit_softcap", "d_embedding"}
    extras |= {"embedding_scale", "head_bias"}
    assert extras <= {key for extra in parts.EXTRAS for key in extra} <= set(gw.ModelConfig.model_fields)


@every
def test_settings_survive_being_written_and_read(kind, settings):
    config = build({kind: settings}).config
    again = gw.ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert config.to_dict()[kind]["type"] == settings["type"]


@every
def test_every_setting_has_a_docstring(kind, settings):
    part, _ = part_of(kind, settings)
    assert not [name for name, field in type(part.config).model_fields.items() if not field.description]
    assert type(part).__doc__


@every
def test_an_unknown_setting_is_refused(kind, settings):
    with pytest.raises(gw.ConfigError, match="colour"):
        gw.ModelConfig.from_dict({**BASE, kind: {**settings, "colour": 1}})


@every
@torch.no_grad()
def test_a_batch_of_no_padding_is_the_same_however_it_is_described(kind, settings):
    part, ctx = part_of(kind, settings)
    x, ones = torch.randn(2, 9, ctx.d_model), torch.ones(2, 9)
    if kind != "norm":
        same(part(x, gw.Sequence.packed(ones * 5)), part(x, gw.Sequence.plain(2, 9)), "one document numbered 5")
        same(part(x, gw.Sequence.padded(ones)), part(x, gw.Sequence.plain(2, 9)), "a mask that hides nothing")


@pytest.mark.parametrize(("kind", "settings"), [pair for pair in EVERY if pair[0] in ("feed_forward", "norm")])
@torch.no_grad()
def test_tokens_are_worked_on_by_themselves(kind, settings):
    part, ctx = part_of(kind, settings)
    x = torch.randn(2, 9, ctx.d_model)
    out = part(*given(kind, x))
    order = torch.randperm(9)
    same(part(*given(kind, x[:, order])), out[:, order], "tokens in another order")
    same(part(*given(kind, x[1:, 3:4])), out[1:, 3:4], "a token alone")


@pytest.mark.parametrize("settings", [s for kind, s in EVERY if kind == "attention"], ids=label)
def test_a_state_refuses_lengths_that_were_never_reached(settings):
    states = build({"attention": settings}).init_states(batch=1, length=10)
    for length in (-1, 1):
        with pytest.raises(gw.GptwrightError, match=f"cannot truncate a state of 0 tokens to {length}"):
            states.truncate(length)
