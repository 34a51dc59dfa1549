"""Laws of a forward pass over whole batches.

A law is a function of a model: it raises `Broken` with the figures when it does not hold, and may return a note.
Its name is what the report calls it, the first line of its docstring what it promises.

Shapes: B batch, T tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gptwright.check.batches import SEGMENTS, documents, padded
from gptwright.check.measure import T, demand, error, finite, same
from gptwright.check.models import components, tokens
from gptwright.model.gpt import GPT


@contextmanager
def watched(model: GPT) -> Iterator[None]:
    """Make sure, while the block runs, that every component returns one tensor like the one that it is given."""
    handles = [part.register_forward_hook(_returns_alike(name)) for name, part, _ in components(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _returns_alike(name: str) -> Any:
    def look(part: Any, given: tuple[Any, ...], out: Any) -> None:
        who = f"{type(part).__name__} ({name})"
        demand(isinstance(out, Tensor), f"{who} returns {type(out).__name__}, and must return one tensor")
        x = given[0]
        demand(out.shape == x.shape, f"{who} returns shape {tuple(out.shape)} for inputs of {tuple(x.shape)}")
        demand(out.dtype == x.dtype, f"{who} returns {_word(out.dtype)} for inputs in {_word(x.dtype)}")

    return look


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.no_grad()
def shapes_are_kept(model: GPT) -> None:
    """Each part returns one tensor of the shape and dtype that it is given, and nothing in it is NaN or infinite."""
    with watched(model):
        for shape in ((2, T), (1, 1), (3, 7)):
            out = model(tokens(*shape))
            finite(out, f"logits of {shape[0]} rows of {shape[1]} tokens")


@torch.no_grad()
def calls_are_independent(model: GPT) -> None:
    """A call leaves nothing behind: other batches, before it or in between, change no result."""
    ids, other = tokens(2, 20), tokens(2, 20, seed=2)
    before = model(ids)
    model(tokens(3, T, seed=3))
    same(model(ids), before, "a batch, before and after a larger one")
    states, others = (model.init_states(batch=2, length=20) for _ in range(2))
    alone = model.init_states(batch=2, length=20)
    expected = [model(ids[:, :9], states=alone), model(ids[:, 9:], states=alone)]
    found = []
    for part in (slice(9), slice(9, 20)):
        found.append(model(ids[:, part], states=states))
        model(other[:, part], states=others)
    same(torch.cat(found, 1), torch.cat(expected, 1), "a decoded batch, while another is decoded between its pieces")


@torch.no_grad()
def the_future_is_unseen(model: GPT) -> None:
    """Changing a token changes its own output and nothing before it."""
    ids = tokens(1, T, seed=6)
    before = model(ids)
    for at in (0, 1, 63, 64, T - 1):
        changed = ids.clone()
        changed[0, at] = (changed[0, at] + 1) % model.config.require_vocab_size()
        after = model(changed)
        if at:
            same(after[:, :at], before[:, :at], f"outputs of the tokens before {at} when token {at} is changed")
        moved = error(after[:, at], before[:, at])
        demand(moved > 1e-3, f"the output at {at} does not depend on its own token")


@torch.no_grad()
def padding_stays_finite(model: GPT) -> None:
    """Outputs at padding are finite, whatever else they are: one NaN would spread to real tokens."""
    for side, mask in padded(3):
        ids = tokens(*mask.shape, seed=2)
        with _finite_parts(model, mask, side):
            finite(model(ids, padding_mask=mask), f"{side}: logits")
    empty = torch.ones(2, 9, dtype=torch.bool)
    empty[1] = False
    finite(model(tokens(2, 9), padding_mask=empty), "a row of padding alone: logits")


@contextmanager
def _finite_parts(model: GPT, mask: Tensor, side: str) -> Iterator[None]:
    """Look at each component's own outputs, since what comes after may hide them."""

    def look(name: str) -> Any:
        def hook(part: Any, given: Any, out: Tensor) -> None:
            who = f"{type(part).__name__} ({name})"
            for where, which in (("padding", ~mask), ("real tokens", mask)):
                finite(out[which], f"{side}: outputs of {who} at {where}")

        return hook

    handles = [part.register_forward_hook(look(name)) for name, part, _ in components(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def padding_changes_nothing(model: GPT) -> None:
    """Left-padded = right-padded = padded in between = alone."""
    for side, mask in padded(3):
        ids = tokens(*mask.shape, seed=2)
        together = model(ids, padding_mask=mask)
        finite(together, f"{side}, padding included")
        for row in range(3):
            alone = model(ids[row][mask[row]][None])
            same(together[row][mask[row]][None], alone, f"{side}, row {row} against the row alone")


@torch.no_grad()
def packing_changes_nothing(model: GPT) -> None:
    """Packed with other documents = alone."""
    ids = tokens(*SEGMENTS.shape, seed=4)
    packed = model(ids, segments=SEGMENTS)
    finite(packed, "packed")
    for own, where in documents(ids):
        what = f"a document of {own.shape[1]} tokens, packed with others, against the document alone"
        same(packed[where][None], model(own), what)
