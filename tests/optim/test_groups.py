"""Rules for some parameters: what they match, which of them wins, and how groups are told apart."""

import copy

import pytest
import torch

from gptwright.config.slot import Slot
from gptwright.errors import ConfigError
from gptwright.optim.groups import GroupRule, freeze
from gptwright.optim.optimizer.adamw import AdamW

SLOT = Slot("optim", package="gptwright.optim.optimizer", base="gptwright.optim.base:OptimizerMaker")


def build(model, *rules, kind="adamw", **settings):
    owner = SLOT.resolve(kind)
    return owner(owner.Config.from_dict({"groups": list(rules), **settings})).build(model)


def groups_of(model, optimizer):
    """Return, by the name of each parameter, the group it is in."""
    named = {id(p): name for name, p in model.named_parameters()}
    return {named[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("kind", SLOT.names())
def test_every_optimizer_scales_decays_and_freezes(toy, train, kind):
    model, plain = toy(), toy()
    rules = [
        {"match": "layers.0", "lr_scale": 0.25},
        {"match": ["layers.0.q_proj", "final_norm"], "weight_decay": 0.7},
        {"match": "token_embedding", "freeze": True},
    ]
    optimizer = build(model, *rules, kind=kind)
    before = copy.deepcopy(model.state_dict())
    usual, found = groups_of(plain, build(plain, kind=kind)), groups_of(model, optimizer)
    for name, _ in model.named_parameters():
        if name == "token_embedding.weight":
            assert name not in found
            continue
        scale = 0.25 if name.startswith("layers.0.") else 1.0
        changed = name.startswith(("layers.0.q_proj", "final_norm"))
        assert found[name]["initial_lr"] == found[name]["lr"] == usual[name]["lr"] * scale, name
        assert found[name]["weight_decay"] == (0.7 if changed else usual[name]["weight_decay"]), name
    train(model, optimizer, 2)
    assert torch.equal(before["token_embedding.weight"], model.token_embedding.weight)
    assert not torch.equal(before["layers.0.q_proj.weight"], model.layers[0].q_proj.weight)


@pytest.mark.parametrize("kind", SLOT.names())
def test_a_state_with_rules_continues_bit_for_bit(toy, train, kind):
    rules = [{"match": "layers.0", "lr_scale": 0.5}, {"match": "*norm*", "freeze": True}]
    straight, resumed = toy(), toy(seed=1)
    optimizer = build(straight, *rules, kind=kind)
    train(straight, optimizer, 2)
    resumed.load_state_dict(straight.state_dict())
    again = build(resumed, *rules, kind=kind)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(resumed, again, 3, first=2) == train(straight, optimizer, 3, first=2)


def test_names_say_what_a_group_is(toy):
    model = toy()
    rules = [{"match": ["layers.0", "lm_head"], "lr_scale": 0.1}, {"match": "layers.0.q_proj", "weight_decay": 0}]
    names = [group["name"] for group in build(model, *rules).param_groups]
    assert names == [
        "decay",
        "decay (layers.0, lm_head: lr_scale 0.1; layers.0.q_proj: weight_decay 0)",
        "decay (layers.0, lm_head: lr_scale 0.1)",
        "no_decay",
        "no_decay (layers.0, lm_head: lr_scale 0.1)",
        "no_decay (layers.0, lm_head: lr_scale 0.1; layers.0.q_proj: weight_decay 0)",
    ]


def test_later_rules_win_setting_by_setting(toy):
    model = toy()
    rules = [
        {"match": "layers", "lr_scale": 0.5, "weight_decay": 0.3},
        {"match": "layers.1", "lr_scale": 0.1},
        {"match": "*", "freeze": True},
        {"match": "layers.*.q_proj", "freeze": False},
    ]
    found = groups_of(model, build(model, *rules))
    assert set(found) == {f"layers.{n}.q_proj.{kind}" for n in (0, 1) for kind in ("weight", "bias")}
    assert [found[f"layers.{n}.q_proj.weight"]["lr"] for n in (0, 1)] == [0.5e-3, 0.1e-3]
    assert all(group["weight_decay"] == 0.3 for group in found.values())


def test_what_was_frozen_before_stays_frozen(toy):
    model = toy()
    model.final_norm.requires_grad_(False)
    build(model, {"match": "final_norm", "freeze": False}, {"match": "lm_head", "freeze": True})
    assert [p.requires_grad for p in (model.final_norm.weight, model.lm_head.weight)] == [False, False]


@pytest.mark.parametrize("name", ["lm_head", "token_embedding"])
def test_a_tied_parameter_is_meant_by_either_name(toy, name):
    model = toy(tied=True)
    found = groups_of(model, build(model, {"match": name, "lr_scale": 0.5}))
    assert found["token_embedding.weight"]["lr"] == 0.5e-3


@pytest.mark.parametrize("attribute", ["module", "_orig_mod"])
def test_wrappers_do_not_hide_names(toy, attribute):
    outer = torch.nn.Module()
    outer.add_module(attribute, toy())
    assert build(outer, {"match": "layers.0.q_proj.weight", "lr_scale": 0.5}).param_groups[1]["lr"] == 0.5e-3


def test_a_pattern_that_matches_nothing_is_named_with_the_nearest(toy):
    sentence = r"optim\.groups\.1\.match names 'layer\.0', which matches no parameter; names .*; did you mean 'layers"
    model = toy()
    with pytest.raises(ConfigError, match=sentence):
        build(model, {"match": "*norm*", "freeze": True}, {"match": ["lm_head", "layer.0"], "lr_scale": 0.1})
    assert all(p.requires_grad for p in model.parameters())


def test_freezing_everything_is_refused_and_changes_nothing(toy):
    model = toy()
    count = sum(p.numel() for p in model.parameters())
    with pytest.raises(ConfigError, match=rf"freezes all of the {count:,} parameters that would train; freeze fewer"):
        freeze(model, [GroupRule(match=["*"], freeze=True)])
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"match": "a"}, "groups.0: the rule for a sets none of lr_scale, weight_decay and freeze; set one, or"),
        ({"match": [], "freeze": True}, "match is an empty list and names nothing; give it a pattern"),
        ({"freeze": True}, "groups.0.match: missing"),
        ({"match": 5, "freeze": True}, "groups.0.match: must be a list"),
        ({"match": "a", "lr_scale": -1}, "groups.0.lr_scale: must be more than 0.0, but is -1"),
        ({"match": "a", "lr_scale": 0}, "groups.0.lr_scale: must be more than 0.0, but is 0"),
        ({"match": "a", "weight_decay": -0.5}, "groups.0.weight_decay: must be at least 0.0, but is -0.5"),
        ({"match": "a", "lr": 0.1}, "groups.0.lr: unknown key"),
    ],
)
def test_bad_rules_are_one_sentence(rule, sentence):
    with pytest.raises(ConfigError) as caught:
        AdamW.Config.from_dict({"groups": [rule]})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rules_go_out_as_they_came_in():
    config = AdamW.Config.from_dict({"groups": [{"match": "layers.0", "lr_scale": 0.1}]})
    assert AdamW.Config.from_dict(config.to_dict()) == config
    assert config.groups[0].match == ["layers.0"]
