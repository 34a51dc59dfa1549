"""Contracts of every optimizer in the folder: it learns, skips, resumes exactly, and can be saved without
pickle."""

import copy
import json

import pytest
import torch

from gptwright.config.slot import Slot
from gptwright.errors import ConfigError
from gptwright.optim.base import OptimizerMaker

SLOT = Slot("optim", package="gptwright.optim.optimizer", base="gptwright.optim.base:OptimizerMaker")
CASES = [(name, example) for name, owner in SLOT.components().items() for example in owner.EXAMPLES]
every_optimizer = pytest.mark.parametrize(("name", "example"), CASES, ids=[f"{n}-{e}" for n, e in CASES])


def maker(name, example) -> OptimizerMaker:
    owner = SLOT.resolve(name)
    return owner(owner.Config.from_dict(example))  # type: ignore[call-arg, return-value]


def test_the_menu_is_the_folder():
    assert SLOT.names() == ["adamw", "lion", "muon", "sgd"]


@every_optimizer
def test_groups_cover_every_parameter_once_with_a_name_and_initial_lr(toy, name, example):
    model = toy(tied=True)
    groups = maker(name, example).build(model).param_groups
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    assert all(g["name"] and g["initial_lr"] == g["lr"] > 0 for g in groups)


@every_optimizer
def test_only_matrices_outside_the_embeddings_decay(toy, name, example):
    example = {**example, "weight_decay": 0.3, "groups": []}
    model = toy()
    decay = {id(p): g["weight_decay"] for g in maker(name, example).build(model).param_groups for p in g["params"]}
    for path, parameter in model.named_parameters():
        kept = parameter.ndim < 2 or path.startswith(("token_embedding", "position"))
        assert decay[id(parameter)] == (0.0 if kept else 0.3), path


@every_optimizer
def test_it_learns(toy, train, name, example):
    model = toy()
    losses = train(model, maker(name, example).build(model), 40)
    assert losses[-1] < losses[0] - 0.05


@every_optimizer
def test_a_saved_state_continues_bit_for_bit(toy, train, name, example):
    straight = toy()
    optimizer = maker(name, example).build(straight)
    train(straight, optimizer, 3)
    halfway, saved = copy.deepcopy(straight.state_dict()), copy.deepcopy(optimizer.state_dict())
    losses = train(straight, optimizer, 4, first=3)

    resumed = toy(seed=1)
    resumed.load_state_dict(halfway)
    optimizer = maker(name, example).build(resumed)
    optimizer.load_state_dict(saved)
    assert train(resumed, optimizer, 4, first=3) == losses
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


@every_optimizer
def test_the_state_is_tensors_and_plain_numbers(toy, train, name, example):
    model = toy()
    optimizer = maker(name, example).build(model)
    train(model, optimizer, 1)
    saved = optimizer.state_dict()
    json.dumps(saved["param_groups"])
    assert all(isinstance(v, torch.Tensor) for each in saved["state"].values() for v in each.values())


@every_optimizer
def test_a_parameter_without_a_gradient_is_skipped(toy, name, example):
    model = toy()
    optimizer = maker(name, example).build(model)
    skipped = {"layers.0.q_proj.weight", "layers.1.experts.up_proj", "lm_head.weight"}
    before = {path: p.detach().clone() for path, p in model.named_parameters()}
    for path, parameter in model.named_parameters():
        parameter.grad = None if path in skipped else torch.ones_like(parameter)
    optimizer.step()
    for path, parameter in model.named_parameters():
        assert torch.equal(parameter, before[path]) == (path in skipped), path


@every_optimizer
def test_gradients_are_left_as_they_were(toy, train, name, example):
    model = toy()
    optimizer = maker(name, example).build(model)
    train(model, optimizer, 1)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    after = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every_optimizer
def test_the_learning_rate_is_the_one_set_from_outside(toy, train, name, example):
    model = toy()
    optimizer = maker(name, example).build(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("name", "setting", "word"),
    [
        ("adamw", {"lr": 0.0}, "lr"),
        ("adamw", {"lr": float("nan")}, "lr"),
        ("adamw", {"weight_decay": -0.1}, "weight_decay"),
        ("adamw", {"betas": [0.9, 1.0]}, "betas"),
        ("adamw", {"betas": [0.9]}, "betas"),
        ("adamw", {"betas": ["0.9", 0.95]}, "betas"),
        ("muon", {"momentum": 1.0}, "momentum"),
        ("muon", {"ns_steps": 0}, "ns_steps"),
        ("muon", {"ns_dtype": "float8"}, "ns_dtype"),
        ("muon", {"head_lr": -1.0}, "head_lr"),
        ("lion", {"lr": -1}, r"lr: must be more than 0.0, but is -1"),
        ("lion", {"betas": [1.0, 0.9]}, "betas"),
        ("sgd", {"lr": -0.1}, r"lr: must be more than 0.0, but is -0.1"),
        ("sgd", {"momentum": 1.0}, "momentum"),
        ("sgd", {"decay": "l2"}, "decay: must be one of 'decoupled', 'classic'"),
    ],
)
def test_bad_settings_are_named(name, setting, word):
    with pytest.raises(ConfigError, match=word):
        SLOT.resolve(name).Config.from_dict(setting)


def test_betas_go_out_as_they_came_in():
    config = SLOT.resolve("adamw").Config.from_dict({"betas": [0.8, 0.9]})
    assert config.to_dict()["betas"] == [0.8, 0.9]
    assert type(config).from_dict(config.to_dict()) == config
