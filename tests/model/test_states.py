"""Decode states of a whole model, and their clock."""

import pytest
import torch

import gptwright as gw

KINDS = {
    "softmax": {"type": "softmax", "n_heads": 2},
    "local": {"type": "local", "n_heads": 2, "window": 4},
    "linear": {"type": "linear", "n_heads": 2},
}
every_kind = pytest.mark.parametrize("attention", KINDS.values(), ids=KINDS)


@every_kind
@torch.no_grad()
def test_they_grow_when_more_comes_than_was_said(build, attention):
    model = build(attention=attention, position="rotary")
    ids = torch.randint(13, (1, 200), generator=torch.Generator().manual_seed(0))
    states = model.init_states(batch=1, length=3)
    pieces = [model(ids[:, a:b], states=states) for a, b in ((0, 2), (2, 70), (70, 71), (71, 200))]
    torch.testing.assert_close(torch.cat(pieces, 1), model(ids), rtol=1e-4, atol=1e-5)


@every_kind
@torch.no_grad()
def test_fixed_states_stay_as_large_as_they_are(build, attention):
    model = build(attention=attention, position="rotary")
    states = model.init_states(batch=1, length=10)
    before = states.nbytes
    model(torch.zeros(1, 300, dtype=torch.long), states=states)
    assert (states.nbytes == before) == (attention["type"] != "softmax")


@torch.no_grad()
def test_a_refused_truncation_changes_no_layer(build, ids):
    """The first layer could go back, the second cannot: neither does."""
    blocks = {"one": {"attention": KINDS["softmax"]}, "two": {"attention": KINDS["linear"]}}
    model = build(blocks=blocks, position="rotary")
    states = model.init_states(2, 9)
    model(ids[:, :6], states=states)
    with pytest.raises(gw.Unsupported, match="a recurrent state is a sum over its 6 tokens and cannot go back to 4"):
        states.truncate(4)
    torch.testing.assert_close(model(ids[:, 6:], states=states), model(ids)[:, 6:])


@torch.no_grad()
def test_truncating_twice_with_padding_in_between(build, ids):
    model = build(position="rotary")
    states = model.init_states(2, 30)
    model(ids, states=states)
    states.truncate(5)
    mask = torch.tensor([[True, True, True], [False, True, True]])
    model(ids[:, 5:8], padding_mask=mask, states=states)
    states.truncate(7)
    found = model(ids[:, 8:], states=states)
    kept = torch.cat((ids[:, :7], ids[:, 8:]), 1)
    whole = torch.ones_like(kept, dtype=torch.bool)
    whole[1, 5] = False
    torch.testing.assert_close(found, model(kept, padding_mask=whole)[:, 7:])


@torch.no_grad()
def test_a_window_that_dropped_a_document_cannot_go_back_to_it(build, ids):
    model = build(attention={"type": "local", "n_heads": 2, "window": 50}, position="rotary")
    states = model.init_states(2, 9)
    model(ids, segments=torch.tensor([[1] * 5 + [2] * 4] * 2), states=states)
    with pytest.raises(gw.Unsupported, match="has written over what it would need to go back from 9 to 3 tokens"):
        states.truncate(3)


def test_a_document_that_comes_back_in_a_later_call_is_refused(build, ids):
    model = build()
    states = model.init_states(2, 9)
    for segment in (1, 1, 2):
        model(ids[:, :2], segments=torch.full((2, 2), segment), states=states)
    with pytest.raises(gw.GptwrightError, match="row 0 of segments names document 1 again after document 2 has begun"):
        model(ids[:, :2], segments=torch.full((2, 2), 1), states=states)
    plain = model.init_states(2, 9)
    model(ids[:, :2], states=plain)
    model(ids[:, :2], segments=torch.full((2, 2), 2), states=plain)
    with pytest.raises(gw.GptwrightError, match="names document 1 again"):
        model(ids[:, :2], segments=torch.full((2, 2), 1), states=plain)


@torch.no_grad()
def test_nothing_hangs_on_the_model(build, ids):
    """Two conversations at once, each with its states."""
    model = build()
    one, two = model.init_states(1, 9), model.init_states(1, 9)
    found = [[], []]
    for column in range(9):
        for row, states in enumerate((one, two)):
            found[row].append(model(ids[row : row + 1, column : column + 1], states=states))
    for row in range(2):
        torch.testing.assert_close(torch.cat(found[row], 1), model(ids[row : row + 1]))


def test_they_are_one_for_each_layer(build):
    states = build(n_layers=3).init_states(2, 9)
    assert len(states) == len(list(states)) == 3
    assert states.nbytes == sum(state.nbytes for state in states)
    assert states[1] is list(states)[1]
