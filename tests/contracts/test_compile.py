"""One graph: `torch.compile(fullgraph=True)` finds nothing in any component that it cannot trace."""

import pytest

from gptwright.check.compiled import compiled_equals_eager
from gptwright.check.models import build

from . import parts
from .parts import as_params

FIRST = as_params({kind: found} for kind, found in parts.every_component(first_only=True))


@pytest.mark.parametrize("settings", FIRST)
def test_a_traced_model_is_the_plain_one(settings):
    compiled_equals_eager(build(settings), backend="eager")


@pytest.mark.exhaustive
@pytest.mark.parametrize("settings", as_params(parts.alone()))
def test_a_compiled_model_is_the_plain_one(settings):
    compiled_equals_eager(build(settings), backend="aot_eager")


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("settings", FIRST)
def test_generated_code_computes_what_is_written(settings):
    compiled_equals_eager(build(settings), backend="inductor")
