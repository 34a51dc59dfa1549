"""Laws of accounting: what settings say a component costs is what the built one costs."""

import gc

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gptwright.check.measure import demand
from gptwright.check.models import components, tokens
from gptwright.model.gpt import GPT
from gptwright.nn.base import ModuleConfig


def parameters_are_counted(model: GPT) -> None:
    """`num_params` and `active_params` are the numbers that are built, and that one token passes through."""
    for name, part, ctx in components(model):
        held, said = sum(p.numel() for p in part.parameters()), part.config.num_params(ctx)
        demand(held == said, f"num_params of {part.config.type} ({name}) says {said:,}, and {held:,} are built")
    built, said = sum(p.numel() for p in model.parameters()), model.config.num_params()
    demand(built == said, f"the settings say {said:,} parameters, and the model has {built:,}")
    said = model.config.active_params()
    for row in range(3):
        found = reached(model, tokens(1, 1, seed=row))
        demand(found == said, f"active_params say {said:,} for the model, and one token reaches {found:,}")


def reached(model: GPT, ids: torch.Tensor) -> int:
    """Count the parameters that ``ids`` pass through: those that their output has a gradient for."""
    model.zero_grad(set_to_none=True)
    model(ids).sum().backward()
    return sum(p.numel() for p in model.parameters() if p.grad is not None)


def flops_are_counted(model: GPT) -> str | None:
    """`flops_per_token` is what runs, where every key counts; where fewer do, no more than all are worked on.

    The count takes each key as seen by each query, as the reference path works (a causal kernel does half).
    """
    plain = uncounted(model)
    left_out = 0.0
    for length in (1, 48):
        claimed = model.config.flops_per_token(length, training=False)
        counted = flops(model, length)
        what = f"at {length} tokens the settings say {claimed:,} forward FLOPs a token"
        demand(claimed <= counted, f"{what}, and only {counted:,.0f} are run; flops_per_token may count no more")
        if claimed < model.config.flops_per_token(length + 1, training=False):  # each further key costs
            demand(counted == claimed, f"{what}, and {counted:,.0f} are run; flops_per_token must count all of them")
        elif not plain:
            width = max(model.config.d_model, 32)
            allowed = claimed + 8 * model.config.n_layers * width * length
            demand(counted <= allowed, f"{what}, and {counted:,.0f} are run, which is more than fewer keys can explain")
        left_out = counted - claimed
    if plain and left_out:
        return f"by default the weights alone are counted, {1 - left_out / counted:.0%} of what is run at 48 tokens"
    return None


def flops(model: GPT, length: int) -> float:
    """Return the matrix FLOPs a token of a forward pass, counted as they run, without torch's fused kernels."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens(1, length))
    return counter.get_total_flops() / length


def uncounted(model: GPT) -> bool:
    """Whether an attention keeps the default ``flops_per_token``, which counts no mixing."""
    kinds = (type(model.config.layer(index)[0]) for index in range(model.config.n_layers))
    return any(kind.flops_per_token is ModuleConfig.flops_per_token for kind in kinds)


@torch.no_grad()
def state_bytes_are_counted(model: GPT) -> None:
    """`state_bytes` is what decode states hold, in fp32 and bf16.

    Counted in whole blocks, over floating-point contents: a few integers say which column is what.
    """
    length, batch = 128, 3
    for dtype in (torch.float32, torch.bfloat16):
        typed = model.twin(dtype)
        states = typed.init_states(batch=batch, length=length)
        typed(tokens(batch, length), states=states)
        for index, state in enumerate(states):
            attention, _ = model.config.layer(index)
            said = batch * attention.state_bytes(model.config.context(index), length, dtype.itemsize)
            held = sum(x.nbytes for x in tensors_of(state) if x.is_floating_point())
            what = f"state_bytes of {attention.type} says {said:,} for {batch} rows of {length} tokens in {dtype}"
            demand(held == said, f"{what}, and the state holds {held:,}")
            most = 1.5 * held + batch * 16 * 8 * length
            told = f"nbytes of a state of {held:,} bytes of numbers says {state.nbytes:,}"
            demand(held <= state.nbytes <= most, told)


def tensors_of(thing: object) -> list[torch.Tensor]:
    """Return every tensor that an object holds, however deep."""
    seen: dict[int, object] = {}
    queue = [thing]
    while queue:
        found = queue.pop()
        if id(found) not in seen and not isinstance(found, type):
            seen[id(found)] = found
            if not isinstance(found, torch.Tensor):
                queue += gc.get_referents(found)
    return [found for found in seen.values() if isinstance(found, torch.Tensor)]
