"""Laws of the backward pass.

Shapes: B batch, T tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gptwright.check.batches import SEGMENTS, documents, holes, ragged
from gptwright.check.measure import Broken, T, same_gradients
from gptwright.check.models import fresh, tokens
from gptwright.model.gpt import GPT
from gptwright.ops.loss import loss


def gradients(model: GPT, ids: Tensor, counts: Tensor, **said: Tensor) -> dict[str, Tensor]:
    """Return the gradient, by parameter, of the summed cross-entropy where ``counts`` (B, T)."""
    model.zero_grad(set_to_none=True)
    targets = torch.where(counts, ids * 7 % model.config.require_vocab_size(), -100)
    loss(model(ids, **said), targets, reduction="sum").backward()
    return {name: p.grad.clone() if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}


def worked(run: Callable[..., Tensor], model: GPT, ids: Tensor, **said: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the outputs at real tokens, and the gradients by parameter of a random sum of them.

    ``run`` is ``model`` itself, or something that does its work.
    """
    model.zero_grad(set_to_none=True)
    out = run(ids, **said)
    for real in said.values():
        out = out[real > 0]  # (N, V)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(4))
    (out * weights).sum().backward()
    return out, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def gradients_ignore_neighbours(model: GPT) -> None:
    """The gradient of padded and packed batches = the sum of each document's own."""
    cases = [("packed", {"segments": SEGMENTS}, SEGMENTS)]
    ends = torch.cat((ragged(1, 9, "left"), ragged(1, 9, "right")))
    for what, mask in (("padded at an end", ends), ("padded in between", holes(2))):
        cases.append((what, {"padding_mask": mask}, mask.long()))
    for what, said, segments in cases:
        ids = tokens(*segments.shape, seed=7)
        together = gradients(model, ids, segments > 0, **said)
        alone = [gradients(model, own, torch.ones_like(own, dtype=torch.bool)) for own, _ in documents(ids, segments)]
        expected = {name: torch.stack([each[name] for each in alone]).sum(0) for name in together}
        same_gradients(together, expected, f"a batch {what} against its documents alone")


def everything_learns(model: GPT) -> None:
    """Every parameter has a gradient: no weight is connected to nothing.

    Not a law of all combinations: a scale before a norm that removes scales has none, by mathematics.
    """
    ids = tokens(2, T, seed=13)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    idle = {name for name, _ in model.named_parameters()}
    for seed in range(6):  # a router may leave out an expert as one model begins, not as all do
        found = gradients(fresh(model.config, seed), ids, everywhere)
        largest = max(float(grad.abs().max()) for grad in found.values())
        idle -= {name for name, grad in found.items() if float(grad.abs().max()) > 1e-5 * largest}
        if not idle:
            return
    raise Broken(f"no gradient reaches {', '.join(sorted(idle))}")
