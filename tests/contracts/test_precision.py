"""The laws at low precision, as training computes: a working copy in bf16 or fp16, master weights in fp32."""

import pytest
import torch

from gptwright.train.working import WorkingCopy

from . import laws, parts
from .laws import T, fed, finite
from .parts import as_params, build, tokens


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("settings", as_params(parts.combinations()))
def test_low_precision_is_close(settings, dtype):
    """By the norm of all logits: a router may send a few tokens elsewhere when scores are rounded."""
    model = build(settings, init={"std": 0.1})
    low = WorkingCopy(model, dtype).model.eval()
    ids = tokens(2, T)
    with torch.no_grad():
        expected, found = model(ids), low(ids)
        pieces = fed(low, ids, laws.CHUNKS)
    finite(found, "logits")
    assert found.dtype == dtype
    assert distance(found, expected) < 0.06
    assert distance(pieces, expected) < 0.06


@pytest.mark.parametrize("settings", as_params(parts.combinations()))
def test_low_precision_gradients_are_close(settings):
    model = build(settings, init={"std": 0.1}, tie_embeddings=False)
    working = WorkingCopy(model, torch.bfloat16)
    ids = tokens(2, T)
    counts = torch.ones_like(ids, dtype=torch.bool)
    expected = laws.gradients(model, ids, counts)
    model.zero_grad(set_to_none=True)
    laws.gradients(working.model.eval(), ids, counts)
    working.collect()
    whole = torch.cat([expected[name].flatten() for name, _ in model.named_parameters()])
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    assert {grad.dtype for grad in grads} == {torch.float32}
    found = torch.cat([grad.flatten() for grad in grads])
    assert distance(found, whole) < 0.15
