"""No fast path goes uncompared: the component examples reach every pair of a fast function and its reference."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import gptwright as gw
from gptwright.check.measure import fed
from gptwright.check.models import build, tokens
from gptwright.model.decoder import Decoder
from gptwright.ops.reference import PAIRS, reference_paths

from . import parts

IN_THE_LOSS = {"chunked_loss"}
"""Fast paths of training rather than of a model; their own tests compare them."""


@contextmanager
def calls() -> Iterator[set[Any]]:
    """Collect the code of every Python function that runs in the block."""
    seen: set[Any] = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, arg: seen.add(frame.f_code))
    try:
        yield seen
    finally:
        sys.setprofile(before)


def test_every_fast_path_is_compared():
    models = [build(settings) for settings in parts.alone()]
    ids = tokens(2, 70)
    with calls() as fast:
        _run(models, ids)
    with calls() as slow, reference_paths():
        _run(models, ids)
    compared = {name for name, pair in PAIRS.items() if pair[0].__code__ in fast and pair[1].__code__ in slow}
    assert set(PAIRS) - compared == IN_THE_LOSS


@torch.no_grad()
def _run(models: list[gw.GPT], ids: torch.Tensor) -> None:
    for model in models:
        fed(model, ids, (69, 1))
        Decoder(model).extend(0, [1])
        model(ids)
