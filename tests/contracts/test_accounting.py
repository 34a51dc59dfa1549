"""What settings say a component costs is what the built one costs."""

import gc

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import gptwright as gw
from gptwright.model.count import count

from . import parts
from .parts import as_params, build, label, tokens

SETTINGS = as_params(parts.combinations())
ATTENTIONS = [found for kind, found in parts.every_component() if kind == "attention"]


def reached(model: gw.GPT, *, row: int) -> int:
    """Count the parameters that one token passes through: those that its output has a gradient for."""
    model.zero_grad(set_to_none=True)
    ids = tokens(1, 1, seed=row)
    model(ids).sum().backward()
    return sum(p.numel() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("settings", SETTINGS)
def test_params(settings):
    model = build(settings)
    assert model.config.num_params() == model.num_params() == sum(p.numel() for p in model.parameters())
    bare = model.config.num_params(non_embedding=True)
    tables = [model.token_embedding, model.position]
    assert bare == model.num_params(non_embedding=True) == model.num_params() - sum(_size(t) for t in tables)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("tie", [True, False])
def test_the_table_adds_up(settings, tie):
    model = build(settings, tie_embeddings=tie)
    found = count(model.config)
    assert found.params == model.num_params()
    assert sum(part.params for part in found.parts) == found.params
    assert 3 * sum(part.flops_per_token for part in found.parts) == found.flops_per_token


@pytest.mark.parametrize("settings", SETTINGS)
def test_active_params_are_those_a_token_reaches(settings):
    model = build(settings)
    assert {reached(model, row=row) for row in range(3)} == {model.config.active_params()}


def flops(model: gw.GPT, length: int) -> float:
    """Return the matrix FLOPs a token of a forward pass, counted as they run, without torch's fused kernels."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens(1, length))
    return counter.get_total_flops() / length


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("length", [1, 48])
def test_flops_are_those_that_run(settings, length):
    """Exactly, where every key counts; where an attention claims fewer keys than all, no more than all are worked on.

    The count takes each key as seen by each query, as the reference path works (a causal kernel does half).
    """
    model = build(settings)
    claimed = model.config.flops_per_token(length, training=False)
    counted = flops(model, length)
    assert claimed <= counted
    if claimed < model.config.flops_per_token(length + 1, training=False):  # each further key costs
        assert counted == claimed
    else:
        width = max(model.config.d_model, 32)
        assert counted <= claimed + 8 * model.config.n_layers * width * length


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_states_hold_the_bytes_that_settings_say(settings, dtype):
    """Counted in whole blocks, over floating-point contents: a few integers say which column is what."""
    model = build(settings).to(dtype)
    length = 128
    states = model.init_states(batch=3, length=length)
    model(tokens(3, length), states=states)
    held = sum(t.nbytes for state in states for t in tensors_of(state) if t.is_floating_point())
    assert held == 3 * model.config.state_bytes(length, element_size=dtype.itemsize)
    assert held <= states.nbytes <= 1.5 * held + 3 * 16 * 8 * length * len(states)


def tensors_of(thing: object) -> list[torch.Tensor]:
    """Return every tensor that an object holds, however deep."""
    seen: dict[int, object] = {}
    queue = [thing]
    while queue:
        found = queue.pop()
        if id(found) not in seen and not isinstance(found, type):
            seen[id(found)] = found
            if not isinstance(found, torch.Tensor):
                queue += gc.get_referents(found)
    return [found for found in seen.values() if isinstance(found, torch.Tensor)]


@pytest.mark.parametrize("settings", ATTENTIONS, ids=label)
def test_a_tensor_parallel_plan_names_submodules(settings):
    model = build({"attention": settings})
    attention = model.layers[0].attention
    for name, cut in attention.config.tp_plan(model.config.context(0)).items():
        assert isinstance(attention.get_submodule(name), nn.Linear)
        assert cut in ("colwise", "rowwise")
