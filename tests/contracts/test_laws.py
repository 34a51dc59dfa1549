"""The law of equality, on every component alone and on every pair of choices; the full product by `make test-all`."""

import itertools

import pytest

from gptwright.check.laws import EQUALITY
from gptwright.check.models import build

from . import parts
from .parts import as_params

every_law = pytest.mark.parametrize("law", EQUALITY, ids=lambda law: law.__name__)


@every_law
@pytest.mark.parametrize("settings", as_params(parts.pairs()))
def test_law_in_a_combination(settings, law):
    law(build(settings))


@every_law
@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_law_in_a_hybrid_stack(law, position):
    kinds = parts.examples("attention", first_only=True) + parts.STRANGERS
    turns = itertools.cycle([{}, {"position": "none"}, {"position": {"type": "rotary", "theta": 50.0}}])
    blocks = {f"kind{n}": {"attention": settings, **next(turns)} for n, settings in enumerate(kinds)}
    law(build({"attention": None, "blocks": blocks, "n_layers": len(blocks), "position": position}))


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("attention", "feed_forward", "rest"),
    [pytest.param(a, f, rest, id=f"{parts.label(a)}-{parts.label(f)}") for a, f, rest in parts.product()],
)
def test_every_combination(attention, feed_forward, rest, ran, drawn_again):
    for others in rest:
        settings = {"attention": attention, "feed_forward": feed_forward, **others}
        for law in EQUALITY:
            try:
                law(build(settings))
            except AssertionError:
                # Of many thousand draws a few are ill-conditioned: a norm divides by next to nothing, and rounding
                # passes 1e-5. A mistake shows in every draw.
                _holds_in_another_draw(law, settings)
                drawn_again(1)
        ran(1)


def _holds_in_another_draw(law, settings):
    try:
        law(build(settings, seed=1))
    except AssertionError as error:
        raise AssertionError(f"{settings}: {law.__name__}: {error}") from error
