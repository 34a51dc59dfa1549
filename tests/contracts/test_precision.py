"""The laws at low precision, as training computes: a working copy in bf16 or fp16, master weights in fp32."""

import pytest
import torch

from gptwright.check.gradients import gradients
from gptwright.check.measure import CHUNKS, LOW_PRECISION, T, fed, finite, typical_distance
from gptwright.check.models import build, tokens
from gptwright.train.working import WorkingCopy

from . import parts
from .parts import as_params

ALONE = parts.alone()
FORWARD = [(settings, dtype) for settings in ALONE for dtype in (torch.bfloat16, torch.float16)]
FORWARD += [(settings, torch.bfloat16) for settings in parts.pairs()]


def gentle(settings: dict) -> dict:
    """Return settings whose weights begin smaller, as they do in training."""
    return {**settings, "init": {**settings.get("init", {}), "std": 0.1}}


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [pytest.param(settings, dtype, id=f"{parts.label(settings)}-{dtype}") for settings, dtype in FORWARD],
)
def test_low_precision_is_close(settings, dtype):
    model = build(gentle(settings))
    low = WorkingCopy(model, dtype).model.eval()
    ids = tokens(2, T)
    with torch.no_grad():
        expected, found = model(ids), low(ids)
        pieces = fed(low, ids, CHUNKS)
    finite(found, "logits")
    assert found.dtype == dtype
    assert typical_distance(found, expected) < LOW_PRECISION
    assert typical_distance(pieces, expected) < LOW_PRECISION


@pytest.mark.parametrize("settings", as_params(ALONE))
def test_low_precision_gradients_are_close(settings):
    model = build({**gentle(settings), "tie_embeddings": False})
    working = WorkingCopy(model, torch.bfloat16)
    ids = tokens(2, T)
    counts = torch.ones_like(ids, dtype=torch.bool)
    expected = gradients(model, ids, counts)
    model.zero_grad(set_to_none=True)
    gradients(working.model.eval(), ids, counts)
    working.collect()
    whole = torch.cat([expected[name].flatten() for name, _ in model.named_parameters()])
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    assert {grad.dtype for grad in grads} == {torch.float32}
    found = torch.cat([grad.flatten() for grad in grads])
    assert (found - whole).norm() < 0.15 * whole.norm()
