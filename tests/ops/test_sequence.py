import pytest
import torch

from gptwright.errors import GptwrightError
from gptwright.ops.sequence import Clock, Sequence


def of(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


def test_plain_rows():
    seq = Sequence.plain(2, 4, start=3)
    assert seq.positions.tolist() == [[3, 4, 5, 6]] * 2
    assert seq.segments.tolist() == [[1] * 4] * 2
    assert (seq.start, seq.gapless, seq.is_causal, len(seq)) == (3, True, False, 4)
    assert Sequence.plain(1, 4).is_causal


def test_a_mask_that_hides_nothing_is_plain():
    assert Sequence.padded(torch.ones(2, 4)).is_causal


def test_positions_count_real_tokens_of_their_own_document():
    seq = Sequence.packed(of([0, 0, 5, 5, 5, 2, 0, 2], [1, 1, 3, 3, 0, 0, 0, 0]))
    assert seq.positions.tolist() == [[0, 0, 0, 1, 2, 0, 0, 1], [0, 1, 0, 1, 0, 0, 0, 0]]
    assert seq.real.tolist() == [[False, False, True, True, True, True, False, True], [True] * 4 + [False] * 4]
    assert not seq.gapless
    assert seq.start is None


def test_padding_at_the_ends_leaves_no_gap():
    assert Sequence.packed(of([0, 0, 5, 5, 5, 2, 2, 0])).gapless
    assert Sequence.packed(of([5, 5, 0, 0, 2, 2])).gapless
    assert not Sequence.packed(of([5, 0, 5, 2])).gapless


def test_runs_never_fall_and_padding_counts_with_a_neighbour():
    seq = Sequence.packed(of([0, 0, 7, 7, 0, 3, 3, 0, 3, 1]))
    assert seq.runs().tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1, 2]]


def test_visible_is_the_law():
    segments = of([0, 4, 4, 0, 4, 9, 9, 0])
    seq = Sequence.packed(segments)
    seen = seq.visible()[0]
    for query in range(8):
        for key in range(8):
            real = segments[0, query] > 0
            expected = bool(segments[0, query] == segments[0, key]) and key <= query
            if real:
                assert seen[query, key] == expected, (query, key)
    assert seen.any(-1).all()  # padding sees padding: no row of a softmax is empty


def test_a_window_counts_positions_of_the_document():
    seen = Sequence.packed(of([4, 0, 0, 0, 4, 4])).visible(window=2)[0]
    assert seen[4].tolist() == [True, False, False, False, True, False]
    assert seen[5].tolist() == [False, False, False, False, True, True]


def test_the_clock_goes_on():
    first = Sequence.packed(of([3, 3, 5, 5, 5, 0], [0, 0, 0, 0, 0, 0], [0, 2, 2, 2, 0, 0]))
    clock = first.clock()
    assert clock.position.tolist() == [3, 0, 3]
    assert clock.segment.tolist() == [5, 0, 2]
    after = Sequence.packed(of([5, 6], [1, 1], [0, 2]), after=clock)
    assert after.positions.tolist() == [[3, 0], [0, 1], [0, 3]]
    padded = Sequence.padded(torch.tensor([[True, True], [False, True], [False, False]]), after=clock)
    assert padded.positions.tolist() == [[3, 4], [0, 0], [0, 0]]
    assert padded.segments.tolist() == [[5, 5], [0, 1], [0, 0]]


def test_the_clock_of_a_continued_piece():
    clock = Clock(torch.tensor([7]), torch.tensor([2]))
    assert Sequence.packed(of([2, 2]), after=clock).clock().position.tolist() == [9]


def test_a_document_that_comes_back_is_refused():
    with pytest.raises(GptwrightError, match=r"row 1 of segments names a document again .*\[4, 5, 4\]"):
        Sequence.packed(of([1, 1, 2], [4, 5, 4]))


def test_shared_values_are_computed_once():
    seq, made = Sequence.plain(1, 2), []
    for _ in range(3):
        assert seq.once("key", lambda: made.append(1) or 7) == 7
    assert made == [1]
