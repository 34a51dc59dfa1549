"""The laws, as functions of any model: each raises AssertionError with the figures when it does not hold.

Shapes: B batch, T tokens.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

import gptwright as gw

from .parts import fresh, tokens

TOLERANCE = 1e-5
"""Largest difference, relative to the largest value."""
GRADIENT_TOLERANCE = 1e-4
"""The same for sums over hundreds of tokens, relative to a tenth of the largest gradient where that is larger."""
T = 150
"""Longer than two blocks of everything that works in blocks of 64."""
CHUNKS = (70, 1, 1, 1, 64, 3, 1, 9)


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected value; infinite for NaN."""
    found, expected = found.detach().double(), expected.detach().double()
    worst = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    return worst if worst == worst else float("inf")


def same(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Make sure that two tensors are equal to tolerance."""
    assert found.shape == expected.shape, f"{what}: shapes {tuple(found.shape)} and {tuple(expected.shape)} differ"
    worst = error(found, expected)
    assert worst <= tolerance, f"{what}: the largest relative difference is {worst:.2e}, allowed is {tolerance:.0e}"


def finite(x: Tensor, what: str) -> None:
    """Make sure that nothing is NaN or infinite."""
    assert bool(torch.isfinite(x).all()), f"{what}: {int((~torch.isfinite(x)).sum())} values are not finite"


def fed(model: gw.GPT, ids: Tensor, sizes: Iterable[int], states=None, mask=None, segments=None) -> Tensor:
    """Return the logits of ``ids`` fed to decode states, ``sizes`` columns at a time."""
    states = states if states is not None else model.init_states(batch=len(ids), length=ids.shape[1])
    outs, at = [], 0
    for size in sizes:
        part = slice(at, at + size)
        said = {"padding_mask": mask, "segments": segments}
        outs.append(model(ids[:, part], states=states, **{k: v[:, part] for k, v in said.items() if v is not None}))
        at += size
    assert at == ids.shape[1], f"the pieces add up to {at} and there are {ids.shape[1]} columns"
    return torch.cat(outs, 1)


@torch.no_grad()
def steps_equal_full(model: gw.GPT) -> None:
    """Full forward = prefill + one token at a time = any pieces."""
    ids = tokens(2, T)
    full = model(ids)
    assert full.shape == (2, T, model.config.vocab_size)
    finite(full, "full forward")
    short = ids[:, :24]
    same(fed(model, short, [1] * 24), full[:, :24], "one token at a time")
    same(fed(model, short, [5] + [1] * 19), full[:, :24], "prefill, then one token at a time")
    same(fed(model, ids, CHUNKS), full, "piece by piece")
    same(model(ids[:1]), full[:1], "a row alone")


def ragged(rows: int, width: int, side: str) -> Tensor:
    """Return a mask (B, T + width) of rows of T real tokens: row 0 whole at one end, row 1 at the other, and so on."""
    mask = torch.zeros(rows, T + width, dtype=torch.bool)
    for row in range(rows):
        pad = width * (row + 1) // rows
        starts = {"left": pad, "right": 0}[side]
        mask[row, starts : starts + T + width - pad] = True
    return mask


@torch.no_grad()
def padding_changes_nothing(model: gw.GPT) -> None:
    """Left-padded = right-padded = padded in between = alone."""
    for side in ("left", "right", "between"):
        mask = ragged(3, 9, side) if side != "between" else _holes(3, T)
        ids = tokens(*mask.shape, seed=2)
        together = model(ids, padding_mask=mask)
        finite(together, f"{side}-padded, padding included")
        for row in range(3):
            alone = model(ids[row][mask[row]][None])
            same(together[row][mask[row]][None], alone, f"{side}-padded row {row}")


def _holes(rows: int, length: int) -> Tensor:
    mask = torch.rand(rows, length, generator=torch.Generator().manual_seed(3)) > 0.3
    mask[:, 0] = torch.arange(rows) % 2 == 0
    return mask


SEGMENTS = torch.tensor([[3] * 40 + [1] * 73 + [7] * 1 + [2] * 31 + [0] * 5, [0] * 9 + [1] * 141])
"""Two rows of 150: documents of several lengths, one of a single token, padding at both ends."""


def documents(ids: Tensor, segments: Tensor = SEGMENTS) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield ``(ids of one document (1, n), where it stands (B, T) bool)``."""
    for row in range(len(ids)):
        for segment in segments[row].unique().tolist():
            if segment:
                where = torch.zeros_like(segments, dtype=torch.bool)
                where[row] = segments[row] == segment
                yield ids[where][None], where


@torch.no_grad()
def packing_changes_nothing(model: gw.GPT) -> None:
    """Packed with other documents = alone, at once and piece by piece through decode states."""
    ids = tokens(*SEGMENTS.shape, seed=4)
    packed = model(ids, segments=SEGMENTS)
    pieces = fed(model, ids, (20, 15, 1, 1, 1, 1, 1, 1, 60, 10, 1, 1, 1, 1, 20, 15), segments=SEGMENTS)
    finite(packed, "packed")
    for own, where in documents(ids):
        alone = model(own)
        what = f"a document of {own.shape[1]} tokens"
        same(packed[where][None], alone, f"{what}, packed")
        same(pieces[where][None], alone, f"{what}, packed and fed piece by piece")


@torch.no_grad()
def ragged_decoding_changes_nothing(model: gw.GPT) -> None:
    """A left-padded batch on decode states = each row alone, also where a piece is all padding."""
    mask = ragged(3, 9, "left")
    mask[2, :75] = False  # rows 0 and 1 go on for longer than any piece before row 2 begins
    ids = tokens(*mask.shape, seed=5)
    out = fed(model, ids, (7, 1, 1, 1, 60, 1, 1, 70, *([1] * 17)), mask=mask)
    finite(out, "ragged decoding, padding included")
    for row in range(3):
        same(out[row][mask[row]][None], model(ids[row][mask[row]][None]), f"ragged decoding, row {row}")


@torch.no_grad()
def the_future_is_unseen(model: gw.GPT) -> None:
    """Changing a token changes its own output and nothing before it."""
    ids = tokens(1, T, seed=6)
    before = model(ids)
    for at in (0, 1, 63, 64, T - 1):
        changed = ids.clone()
        changed[0, at] = (changed[0, at] + 1) % model.config.vocab_size
        after = model(changed)
        if at:
            same(after[:, :at], before[:, :at], f"tokens before {at}, which was changed")
        assert error(after[:, at], before[:, at]) > 1e-3, f"the output at {at} does not depend on its own token"


def gradients(model: gw.GPT, ids: Tensor, counts: Tensor, **said: Tensor) -> dict[str, Tensor]:
    """Return the gradient, by parameter, of the summed cross-entropy where ``counts`` (B, T)."""
    model.zero_grad(set_to_none=True)
    targets = torch.where(counts, ids * 7 % model.config.vocab_size, -100)
    gw.loss(model(ids, **said), targets, reduction="sum").backward()
    return {name: p.grad.clone() if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}


def gradients_ignore_neighbours(model: gw.GPT) -> None:
    """The gradient of padded and packed batches = the sum of each document's own."""
    cases = [("packed", {"segments": SEGMENTS}, SEGMENTS)]
    for side in ("left", "right"):
        mask = ragged(2, 9, side)
        cases.append((f"{side}-padded", {"padding_mask": mask}, mask.long()))
    for what, said, segments in cases:
        ids = tokens(*segments.shape, seed=7)
        together = gradients(model, ids, segments > 0, **said)
        alone = [gradients(model, own, torch.ones_like(own, dtype=torch.bool)) for own, _ in documents(ids, segments)]
        scale = max(float(grad.abs().max()) for grad in together.values()) / 10  # a lone number may cancel to nothing
        for name, grad in together.items():
            expected = torch.stack([each[name] for each in alone]).sum(0)
            finite(grad, f"{what} gradient of {name}")
            worst = float((grad - expected).abs().max()) / max(scale, float(expected.abs().max()))
            assert worst <= GRADIENT_TOLERANCE, (
                f"{what} gradient of {name} differs from the documents' own by {worst:.1e}"
            )


def everything_learns(model: gw.GPT) -> None:
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
    raise AssertionError(f"no gradient reaches {sorted(idle)}")


@torch.no_grad()
def states_can_be_selected(model: gw.GPT) -> None:
    """Selected rows go on as if they had always been fed so, and the states they came from are untouched."""
    ids = tokens(3, 30, seed=8)
    mask = torch.ones(3, 30, dtype=torch.bool)
    mask[1, :11] = False
    for said in ({}, {"mask": mask}):
        states = model.init_states(batch=3, length=30)
        cut = {k: v[:, :20] for k, v in said.items()}
        fed(model, ids[:, :20], (13, 7), states, **cut)
        chosen = states.select([2, 1, 2])
        rest = ids[:, 20:]
        expected = fed(model, ids, (13, 7, 10), **said)[:, 20:]
        same(model(rest[[2, 1, 2]], states=chosen), expected[[2, 1, 2]], "selected rows")
        same(model(rest, states=states), expected, "the states selected from")


@torch.no_grad()
def states_can_be_truncated(model: gw.GPT) -> None:
    """After truncate the past is as if it had ended there; a state that cannot go back says so and stays as it is."""
    ids, other = tokens(2, 100, seed=9), tokens(2, 100, seed=10)
    for length, keep in ((4, 2), (4, 0), (90, 40)):
        states = model.init_states(batch=2, length=length)
        fed(model, ids[:, :length], (length,), states)
        try:
            states.truncate(keep)
            past = keep
        except gw.Unsupported as refusal:
            past, reason = length, str(refusal)
            if len(reason) < 40:
                raise AssertionError(f"the refusal gives no reason: {reason}") from refusal
        whole = torch.cat((ids[:, :past], other[:, :10]), 1)
        found = fed(model, other[:, :10], (6, 1, 1, 1, 1), states)
        same(found, model(whole)[:, past:], f"{length} tokens truncated to {keep}")


@torch.no_grad()
def documents_can_be_truncated(model: gw.GPT) -> None:
    """The same where rows are padded or have gone on to another document."""
    segments = torch.tensor([[1] * 6 + [2] * 4, [0] * 3 + [4] * 7])
    ids, other = tokens(2, 10, seed=11), tokens(2, 5, seed=12)
    for keep in (8, 5, 3):
        states = model.init_states(batch=2, length=10)
        fed(model, ids, (2, 5, 3), states, segments=segments)
        try:
            states.truncate(keep)
        except gw.Unsupported:
            keep = 10
        going_on = torch.cat((segments[:, :keep], segments[:, keep - 1 : keep].clamp(min=1).expand(2, 5)), 1)
        expected = model(torch.cat((ids[:, :keep], other), 1), segments=going_on)[:, keep:]
        same(fed(model, other, (1, 1, 3), states), expected, f"documents truncated to {keep} columns")


LAWS = (
    steps_equal_full,
    padding_changes_nothing,
    packing_changes_nothing,
    ragged_decoding_changes_nothing,
    the_future_is_unseen,
    gradients_ignore_neighbours,
    states_can_be_selected,
    states_can_be_truncated,
    documents_can_be_truncated,
)
