"""Laws of numbers: precision, weights on disk, and memory that nobody has written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gptwright.check.forward import watched
from gptwright.check.measure import LOW_PRECISION, Broken, T, demand, error, finite, same, typical_distance
from gptwright.check.models import fresh, tokens
from gptwright.model.gpt import GPT


def low_precision_is_kept(model: GPT) -> None:
    """A bf16 model computes in bf16, close to the fp32 one, and its gradients are finite."""
    init = model.config.init.model_copy(update={"std": 0.1})
    model = fresh(model.config.model_copy(update={"init": init}))
    low = model.twin(torch.bfloat16)
    ids = tokens(2, T)
    with watched(low):
        found = low(ids)
    finite(found, "logits in bfloat16")
    far = typical_distance(found, model(ids))
    demand(far <= LOW_PRECISION, f"bf16 logits are {far:.3f} from the fp32 ones (median), allowed is {LOW_PRECISION}")
    found.float().square().mean().backward()
    for name, param in low.named_parameters():
        if param.grad is not None:
            finite(param.grad, f"bf16 gradient of {name}")


@torch.no_grad()
def weights_can_be_saved(model: GPT) -> None:
    """All that a model has learnt is in its `state_dict`: loaded into another, it computes the same."""
    other = fresh(model.config, seed=5)
    ids = tokens(2, 20)
    expected = model(ids)
    moved = error(other(ids), expected)
    demand(moved > 1e-3, "two models with other weights give the same logits")
    other.load_state_dict(model.state_dict())
    same(other(ids), expected, "a model with the state_dict of another", tolerance=0)


def nothing_is_read_before_it_is_written(model: GPT) -> None:
    """What torch.empty leaves in memory never reaches a result: here it leaves NaN."""
    ids = tokens(2, 130)
    mask = torch.ones(2, 130, dtype=torch.bool)
    mask[0, :40] = False
    expected = fresh(model.config)(ids, padding_mask=mask)
    with poisoned_memory():
        model = fresh(model.config)
        out = model(ids, padding_mask=mask)
        out.square().mean().backward()
        with torch.no_grad():
            states = model.init_states(batch=2, length=4)
            pieces = [model(ids[:, a:b], padding_mask=mask[:, a:b], states=states) for a, b in ((0, 70), (70, 130))]
    same(out, expected, "logits where torch.empty leaves NaN", tolerance=0)
    same(torch.cat(pieces, 1)[mask], out[mask], "decoding where torch.empty leaves NaN")
    for name, param in model.named_parameters():
        if param.grad is not None:
            finite(param.grad, f"gradient of {name} where torch.empty leaves NaN")


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Let torch.empty and its like give NaN, until the block ends."""
    places = ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"))
    before = [(owner, name, getattr(owner, name)) for owner, name in places]
    try:
        for owner, name, make in before:
            setattr(owner, name, _poisoned(make))
        if not torch.empty(3).isnan().all():
            raise Broken("torch.empty could not be made to leave NaN")
        yield
    finally:
        for owner, name, make in before:
            setattr(owner, name, make)


def _poisoned(make: Callable[..., Any]) -> Callable[..., Any]:
    def poisoned(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        return made.fill_(torch.nan) if made.is_floating_point() and made.device.type != "meta" else made

    return poisoned
