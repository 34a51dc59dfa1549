"""The law of fast paths: each computes what its readable reference does.

Shapes: B batch, T tokens.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gptwright.check.gradients import worked
from gptwright.check.measure import fed, same, same_gradients
from gptwright.check.models import again, tokens
from gptwright.model.gpt import GPT
from gptwright.ops.reference import reference_paths

LENGTHS = (1, 2, 63, 65, 1000)
"""Awkward numbers of tokens: below, beside and far above a block."""
PIECES = (40, 1, 1, 57, 1)
WINDOWS = (3, 100, 2000)
"""Below, among and above the lengths."""


def fast_paths_equal_references(model: GPT) -> None:
    """Fast paths = readable references, forward and all gradients, at awkward lengths, padded and packed too."""
    for what, narrow in _windows(model):
        for batch, ids, said in _batches():
            with reference_paths():
                expected, slow = worked(narrow, narrow, ids, **said)
            found, fast = worked(narrow, narrow, ids, **said)
            same(found, expected, f"fast path, {batch}{what}")
            same_gradients(fast, slow, f"fast path, {batch}{what}", floor=1e-2)
        _decoded_alike(narrow, what)


@torch.no_grad()
def _decoded_alike(model: GPT, what: str) -> None:
    ids = tokens(2, 100)
    with reference_paths():
        expected = fed(model, ids, PIECES)
    same(fed(model, ids, PIECES), expected, f"fast path, decoding{what}")


def _windows(model: GPT) -> Iterator[tuple[str, GPT]]:
    """Yield one layer with room for every length, and again with windows below and above them where it has one."""
    short = {"n_layers": 1, "pattern": model.config.pattern[:1], "max_seq_len": max(LENGTHS)}
    attention, _ = model.config.layer(0)
    if "window" not in type(attention).model_fields:
        yield "", again(model, **short)
        return
    for window in WINDOWS:
        changed = attention.model_copy(update={"window": window})
        yield f", window {window}", again(model, **short, attention=changed, blocks={})


def _batches() -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    for length in LENGTHS:
        ids, index = tokens(1, length, seed=length), torch.arange(length)[None]
        yield f"{length} tokens", ids, {}
        if length < 3:
            continue
        two = 1 + (index > length // 3).long()
        ends = (index > 1) & (index < length - 1)
        yield f"{length} tokens, packed and padded at both ends", ids, {"segments": two * ends}
        if length == 65:
            yield f"{length} tokens, padded in between", ids, {"padding_mask": ends & (index % 9 != 5)}
