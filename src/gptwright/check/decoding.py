"""Laws of decode states: tokens fed in pieces, rows selected, tokens taken back.

Shapes: B batch, T tokens.
"""

import torch

from gptwright.check.batches import SEGMENTS, documents, ragged
from gptwright.check.measure import CHUNKS, Broken, T, fed, finite, same
from gptwright.check.models import tokens
from gptwright.errors import Unsupported
from gptwright.model.decoder import Decoder
from gptwright.model.gpt import GPT
from gptwright.model.states import ModelStates


@torch.no_grad()
def steps_equal_full(model: GPT) -> None:
    """Full forward = prefill + one token at a time = any pieces."""
    ids = tokens(2, T)
    full = model(ids)
    short = ids[:, :24]
    same(fed(model, short, [1] * 24), full[:, :24], "one token at a time")
    same(fed(model, short, [5] + [1] * 19), full[:, :24], "prefill of 5 tokens, then one at a time")
    same(fed(model, ids, CHUNKS), full, f"pieces of {', '.join(map(str, CHUNKS))} tokens")
    same(model(ids[:1]), full[:1], "a row alone")


@torch.no_grad()
def padded_steps_equal_full(model: GPT) -> None:
    """Padded and packed batches on decode states = each document alone, also where a piece is all padding."""
    mask = ragged(3, 9, "left")
    mask[2, :75] = False  # rows 0 and 1 go on for longer than any piece before row 2 begins
    ids = tokens(*mask.shape, seed=5)
    out = fed(model, ids, (7, 1, 1, 1, 60, 1, 1, 70, *([1] * 17)), mask=mask)
    finite(out, "left-padded rows in pieces, padding included")
    for row in range(3):
        alone = model(ids[row][mask[row]][None])
        same(out[row][mask[row]][None], alone, f"left-padded rows in pieces, row {row}")
    ids = tokens(*SEGMENTS.shape, seed=4)
    pieces = fed(model, ids, (20, 15, 1, 1, 1, 1, 1, 1, 60, 10, 1, 1, 1, 1, 20, 15), segments=SEGMENTS)
    for own, where in documents(ids):
        same(pieces[where][None], model(own), f"a packed document of {own.shape[1]} tokens, in pieces")


@torch.no_grad()
def rows_go_on_by_themselves(model: GPT) -> None:
    """Rows decoded side by side, each at its own place = each alone, also when one moves, is copied or goes back."""
    ids = tokens(3, T, seed=7)
    full, decoder = model(ids), Decoder(model, rows=3, length=16)
    for row, length in enumerate((70, 1, 5)):
        found = decoder.extend(row, ids[row, :length].tolist(), every=True)
        same(found, full[row, :length], f"row {row} of a decoder, its first {length} tokens")
    _stepped(decoder, ids, full, 6, "three rows of a decoder")
    at = decoder.lengths[1]
    kept = decoder.snapshot(1)
    found = decoder.extend(1, ids[1, at : at + 4].tolist(), every=True)
    same(found, full[1, at : at + 4], "four tokens more of one row of a decoder")
    if decoder.can_rewind(1, at):
        decoder.rewind(1, at)
    else:
        decoder.restore(1, kept)
    same(decoder.extend(1, ids[1, at : at + 1].tolist()), full[1, at], "a row of a decoder that went back")
    decoder.move(2, 0)  # row 0 has ended
    decoder.copy(1, 2, decoder.lengths[1])
    moved = [2, 1, 1]
    _stepped(decoder, ids[moved], full[moved], 3, "rows of a decoder that were moved and copied")


def _stepped(decoder: Decoder, ids: torch.Tensor, full: torch.Tensor, count: int, what: str) -> None:
    rows = range(decoder.rows)
    for _ in range(count):
        at = list(decoder.lengths)
        found = decoder.step([int(ids[row, at[row]]) for row in rows])
        same(found, torch.stack([full[row, at[row]] for row in rows]), what)


@torch.no_grad()
def states_can_be_selected(model: GPT) -> None:
    """Selected rows go on as if they had always been fed so, and the states they came from are untouched."""
    ids = tokens(3, 30, seed=8)
    mask = torch.ones(3, 30, dtype=torch.bool)
    mask[1, :11] = False
    for said in (None, mask):
        states = model.init_states(batch=3, length=30)
        fed(model, ids[:, :20], (13, 7), states, said if said is None else said[:, :20])
        chosen = states.select([2, 1, 2])
        rest = ids[:, 20:]
        expected = fed(model, ids, (13, 7, 10), mask=said)[:, 20:]
        same(model(rest[[2, 1, 2]], states=chosen), expected[[2, 1, 2]], "rows 2, 1 and 2 selected of 3")
        same(model(rest, states=states), expected, "the states that rows were selected from")


@torch.no_grad()
def states_can_be_truncated(model: GPT) -> None:
    """After truncate the past is as if it had ended there; a state that cannot go back says why, and stays as it is."""
    ids, other = tokens(2, 100, seed=9), tokens(2, 100, seed=10)
    for length, keep in ((4, 2), (4, 0), (90, 40)):
        states = model.init_states(batch=2, length=length)
        fed(model, ids[:, :length], (length,), states)
        past = _truncated(states, length, keep)
        whole = torch.cat((ids[:, :past], other[:, :10]), 1)
        found = fed(model, other[:, :10], (6, 1, 1, 1, 1), states)
        same(found, model(whole)[:, past:], f"{length} tokens truncated to {keep}")
    _truncate_documents(model)


def _truncate_documents(model: GPT) -> None:
    """The same where rows are padded or have gone on to another document."""
    segments = torch.tensor([[1] * 6 + [2] * 4, [0] * 3 + [4] * 7])
    ids, other = tokens(2, 10, seed=11), tokens(2, 5, seed=12)
    for wanted in (8, 5, 3):
        states = model.init_states(batch=2, length=10)
        fed(model, ids, (2, 5, 3), states, segments=segments)
        keep = _truncated(states, 10, wanted)
        going_on = torch.cat((segments[:, :keep], segments[:, keep - 1 : keep].clamp(min=1).expand(2, 5)), 1)
        expected = model(torch.cat((ids[:, :keep], other), 1), segments=going_on)[:, keep:]
        same(fed(model, other, (1, 1, 3), states), expected, f"packed rows of 10 columns truncated to {wanted}")


def _truncated(states: ModelStates, length: int, keep: int) -> int:
    """Truncate, and return how many tokens are left: all of them where the state refuses with a reason."""
    try:
        states.truncate(keep)
    except Unsupported as refusal:
        if len(str(refusal)) < 40:
            raise Broken(f"truncate raises Unsupported without a reason: '{refusal}'") from refusal
        return length
    return keep
