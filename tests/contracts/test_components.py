"""What every component offers by itself: shapes, dtypes, settings, and saying no."""

import json

import pytest
import torch

import gptwright as gw
from gptwright.config.slot import Component
from gptwright.nn.base import LayerContext

from . import parts
from .laws import error, same
from .parts import BASE, build, every_component, label, tokens

EVERY = list(every_component())
every = pytest.mark.parametrize(("kind", "settings"), EVERY, ids=[f"{kind}-{label(found)}" for kind, found in EVERY])
PARTS = {"attention": "layers.0.attention", "feed_forward": "layers.0.feed_forward"}
PARTS |= {"norm": "layers.0.attention_norm", "position": "position"}


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_dtype_are_kept(kind, settings, dtype):
    part, ctx = part_of(kind, settings)
    x = torch.randn(3, 7, ctx.d_model, dtype=dtype, requires_grad=True)
    out = part.to(dtype)(*given(kind, x))
    assert (out.shape, out.dtype) == (x.shape, dtype)
    out.sum().backward()
    assert torch.isfinite(x.grad).all()


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


@every
def test_weights_survive_being_saved_and_loaded(kind, settings):
    model, other = build({kind: settings}), build({kind: settings}, seed=5)
    ids = tokens(2, 20)
    assert error(other(ids), model(ids)) > 1e-3
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(ids), model(ids))


@pytest.mark.parametrize("settings", [s for kind, s in EVERY if kind == "attention"], ids=label)
def test_a_state_refuses_lengths_that_were_never_reached(settings):
    states = build({"attention": settings}).init_states(batch=1, length=10)
    for length in (-1, 1):
        with pytest.raises(gw.GptwrightError, match=f"cannot truncate a state of 0 tokens to {length}"):
            states.truncate(length)


@every
def test_nothing_is_read_before_it_is_written(kind, settings, monkeypatch):
    """What torch.empty leaves in memory must never reach a result: here it leaves NaN."""
    ids = tokens(2, 130)
    mask = torch.ones(2, 130, dtype=torch.bool)
    mask[0, :40] = False
    expected = build({kind: settings})(ids, padding_mask=mask)
    with monkeypatch.context() as patch:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            patch.setattr(owner, name, _poisoned(getattr(owner, name)))
        assert torch.empty(3).isnan().all()
        model = build({kind: settings})
        out = model(ids, padding_mask=mask)
        out.square().mean().backward()
        with torch.no_grad():
            states = model.init_states(batch=2, length=4)
            pieces = [model(ids[:, a:b], padding_mask=mask[:, a:b], states=states) for a, b in ((0, 70), (70, 130))]
    assert torch.equal(out, expected)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    same(torch.cat(pieces, 1)[mask], out[mask], "decoding")


def _poisoned(make):
    def poisoned(*args, **kwargs):
        made = make(*args, **kwargs)
        return made.fill_(torch.nan) if made.is_floating_point() and made.device.type != "meta" else made

    return poisoned
