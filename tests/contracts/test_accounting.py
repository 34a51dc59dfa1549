"""What settings say a component costs is what the built one costs, in every combination."""

import pytest
from torch import nn

from gptwright.check.accounting import flops_are_counted, parameters_are_counted, state_bytes_are_counted
from gptwright.check.models import build
from gptwright.model.count import count

from . import parts
from .parts import as_params

LAWS = (parameters_are_counted, flops_are_counted, state_bytes_are_counted)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("settings", as_params(parts.pairs()))
def test_law_in_a_combination(settings, law):
    law(build(settings))


@pytest.mark.parametrize("settings", as_params(parts.combinations()))
def test_tables_are_told_apart_from_the_rest(settings):
    model = build(settings)
    bare = model.config.num_params(non_embedding=True)
    tables = [model.token_embedding, model.position]
    assert bare == model.num_params(non_embedding=True) == model.num_params() - sum(_size(t) for t in tables)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("settings", as_params(parts.combinations()))
def test_the_table_adds_up(settings):
    model = build(settings)
    found = count(model.config)
    assert found.params == model.num_params()
    assert sum(part.params for part in found.parts) == found.params
    assert 3 * sum(part.flops_per_token for part in found.parts) == found.flops_per_token
    assert found.state_bytes == model.config.state_bytes(found.context)
