"""The law of equality, on every component alone and on every pair of choices; the full product by `make test-all`."""

import pytest

from . import parts
from .laws import LAWS, everything_learns
from .parts import as_params, build

every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)


@every_law
@pytest.mark.parametrize("settings", as_params(parts.combinations()))
def test_law(settings, law):
    law(build(settings))


@pytest.mark.parametrize("settings", as_params({kind: found} for kind, found in parts.every_component()))
def test_every_parameter_learns(settings):
    everything_learns(build(settings))


@every_law
def test_law_in_a_hybrid_stack(law):
    kinds = parts.examples("attention", first_only=True)
    blocks = {f"kind{n}": {"attention": settings} for n, settings in enumerate(kinds)}
    law(build({"attention": None, "blocks": blocks, "n_layers": len(blocks), "position": "rotary"}))


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("attention", "feed_forward", "rest"),
    [pytest.param(a, f, rest, id=f"{parts.label(a)}-{parts.label(f)}") for a, f, rest in parts.product()],
)
def test_every_combination(attention, feed_forward, rest, ran):
    for others in rest:
        settings = {"attention": attention, "feed_forward": feed_forward, **others}
        for law in LAWS:
            try:
                law(build(settings))
            except AssertionError as error:
                raise AssertionError(f"{settings}: {law.__name__}: {error}") from error
        ran(1)
