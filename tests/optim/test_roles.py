import pytest
from torch import nn

import gptwright as gw
from gptwright.errors import ConfigError
from gptwright.optim.roles import roles


def names_of(model, parameters):
    known = {id(p): name for name, p in model.named_parameters()}
    return {known[id(p)] for p in parameters}


def test_every_parameter_gets_the_role_its_place_and_kind_say(toy):
    model = toy()
    found = roles(model)
    block = {f"layers.{i}.{n}" for i in (0, 1) for n in ("q_proj.weight", "o_proj.weight", "down_proj.weight")}
    assert names_of(model, found.matrices) == block | {"layers.0.experts.up_proj", "layers.1.experts.up_proj"}
    assert names_of(model, found.embeddings) == {"token_embedding.weight", "position.weight"}
    assert names_of(model, found.head) == {"lm_head.weight"}
    assert names_of(model, found.others) == {"layers.0.conv.weight", "layers.1.conv.weight"}
    assert all(p.ndim == 1 for p in found.vectors)
    everything = [*found.matrices, *found.embeddings, *found.head, *found.others, *found.vectors]
    assert sorted(map(id, everything)) == sorted(id(p) for p in model.parameters())


def test_a_tied_parameter_appears_once_as_an_embedding(toy):
    model = toy(tied=True)
    found = roles(model)
    assert found.head == []
    assert names_of(model, found.embeddings) == {"token_embedding.weight", "position.weight"}


def test_tied_the_other_way_round_is_an_embedding_too():
    model = nn.Module()
    model.lm_head = nn.Linear(6, 11, bias=False)
    model.token_embedding = nn.Module()
    model.token_embedding.weight = model.lm_head.weight
    assert len(roles(model).embeddings) == 1
    assert roles(model).head == []


@pytest.mark.parametrize("attribute", ["module", "_orig_mod"])
def test_wrappers_do_not_hide_the_blocks(toy, attribute):
    outer = nn.Module()  # as DistributedDataParallel and torch.compile wrap
    outer.add_module(attribute, toy())
    assert len(roles(outer).matrices) == 8


def test_frozen_parameters_are_left_out(toy):
    model = toy()
    model.token_embedding.weight.requires_grad_(False)
    assert names_of(model, roles(model).embeddings) == {"position.weight"}


def test_a_model_without_trainable_parameters_is_refused(toy):
    with pytest.raises(ConfigError, match="no trainable parameter: every one is frozen; unfreeze"):
        roles(toy().requires_grad_(False))


def test_filters_of_a_component_are_no_matrices():
    settings = {"vocab_size": 5, "d_model": 8, "n_layers": 1, "max_seq_len": 4}
    model = gw.GPT(gw.ModelConfig.from_dict({**settings, "attention": {"type": "gated_delta", "n_heads": 2}}))
    found, attention = roles(model), model.layers[0].attention
    assert {id(p) for p in found.others} == {id(p) for p in (attention.q_conv, attention.k_conv, attention.v_conv)}
    assert id(attention.q_proj.weight) in {id(p) for p in found.matrices}
