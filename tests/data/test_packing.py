"""Rows: in one epoch every token that can be predicted is a target exactly once, whatever the packing and the sizes."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwright.data.packing import IGNORE, Documents, Windows
from gptwright.data.plan import Plan, best_fit, open_plan
from gptwright.data.sampler import Order
from gptwright.errors import DataError


class Line:
    """Documents of these lengths, whose tokens are numbered 0, 1, 2 ..., every third of which is not learnt."""

    def __init__(self, lengths) -> None:
        self.stops = np.array(list(accumulate(lengths)), dtype=np.int64)
        self.starts = self.stops - np.array(lengths)
        self.numbers = np.arange(self.stops[-1], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, start, n):
        assert 0 <= start <= start + n <= len(self)
        return self.numbers[start : start + n]

    def learn(self, start, n):
        return self.read(start, n) % 3 > 0

    def ends(self):
        middle = len(self.stops) // 2
        yield from (self.stops[:middle], self.stops[middle:])


def an_epoch(packing, epoch=0, seed=0):
    numbers = epoch * packing.n_rows + np.arange(packing.n_rows)
    return packing.rows(*Order(packing.n_rows, seed).draw(numbers))


def targets_of(rows):
    return sorted(rows.targets[rows.targets != IGNORE].tolist())


@given(context=st.integers(1, 40), more=st.integers(0, 1500), seed=st.integers(0, 9), epoch=st.integers(0, 10**9))
@settings(max_examples=200, deadline=None)
def test_windows_predict_every_token_but_the_first_once(context, more, seed, epoch):
    packing = Windows(Line([context + 1 + more]), context, "the train split")
    rows = an_epoch(packing, epoch, seed)
    assert targets_of(rows) == list(range(1, context + 1 + more))
    assert rows.segments is None
    real = rows.targets != IGNORE
    assert real.any(1).all()  # no row for nothing
    assert (rows.targets[real] == rows.inputs[real] + 1).all()
    assert (np.diff(rows.inputs) == 1).all()  # tokens of the text from end to end, and no filling
    fewest = -(-(context + more) // context)
    assert fewest <= packing.n_rows <= fewest + (fewest >= 16)


def test_epochs_cut_in_places_of_their_own():
    packing = Windows(Line([64 * 200 + 1]), 64, "the train split")
    assert len({tuple(sorted(an_epoch(packing, epoch).inputs[:, 0])) for epoch in range(20)}) > 12


@given(context=st.integers(1, 30), count=st.integers(1, 7), more=st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_validation_covers_every_token_but_the_first_once_and_in_order(context, count, more):
    stream = Line([context + 1 + more])
    seen = []
    for rows in Windows(stream, context, "the validation split").in_order(count):
        assert rows.inputs.shape == rows.targets.shape
        assert rows.inputs.shape[0] <= count
        real = rows.targets != IGNORE
        assert (rows.inputs[real] + 1 == rows.targets[real]).all()
        assert (rows.inputs[~real] == 0).all()
        seen += rows.targets[real].tolist()
    assert seen == list(range(1, len(stream)))


def test_a_stream_shorter_than_a_window():
    assert Windows(Line([9]), 8, "the train split").n_rows == 1
    with pytest.raises(DataError, match=r"train split has 8 tokens, and one window of context 8 .* needs 9: give"):
        Windows(Line([8]), 8, "the train split")


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=60).filter(lambda found: max(found) > 1)


@given(lengths=lengths, context=st.integers(1, 40), share=st.booleans(), answers_only=st.booleans())
@settings(max_examples=150, deadline=None)
def test_documents_predict_every_token_but_each_first_once(tmp_path_factory, lengths, context, share, answers_only):
    stream = Line(lengths)
    wanted = set(range(len(stream))) - set(stream.starts.tolist())
    if answers_only:
        wanted = {number for number in wanted if number % 3}
    if not wanted:
        return
    folder = tmp_path_factory.mktemp("plan") / "plan"
    plan = open_plan(stream, folder, context, share=share, answers_only=answers_only, what="the train split")
    packing = Documents(stream, plan, answers_only=answers_only)
    rows = an_epoch(packing)
    assert targets_of(rows) == sorted(wanted)
    assert (rows.targets != IGNORE).any(1).all()
    owner = np.searchsorted(stream.stops, rows.inputs, side="right")
    for row in range(packing.n_rows):
        filled = rows.segments[row] > 0
        assert (rows.inputs[row][~filled] == 0).all()
        assert (rows.targets[row][~filled] == IGNORE).all()
        assert not (np.diff(filled.astype(int)) > 0).any()  # what is filled up is at the end
        runs = [owner[row][rows.segments[row] == n] for n in range(1, rows.segments[row].max() + 1)]
        assert all(len(set(run.tolist())) == 1 for run in runs)  # a segment is one document
        assert len(runs) == 1 or share
    short = [n for n, length in enumerate(lengths) if 1 < length <= context + 1]
    if not answers_only:
        for number in short:  # a document that fits is whole, and in one row
            holders = (rows.segments > 0) & (owner == number)
            assert holders.any(1).sum() == 1


def test_packing_leaves_little_room():
    draw = np.random.default_rng(0)
    sizes = draw.integers(1, 257, 4000).tolist()
    rows = best_fit(sizes, 256)
    assert sorted(number for row in rows for number in row) == list(range(4000))
    assert max(sum(sizes[number] for number in row) for row in rows) <= 256
    assert len(rows) * 256 < 1.02 * sum(sizes)


def test_a_plan_is_made_once_read_again_and_made_anew_when_damaged(tmp_path):
    stream, how = Line([5, 9, 30, 2, 7]), {"share": True, "answers_only": False, "what": "the train split"}
    plan = open_plan(stream, tmp_path / "plan", 16, **how)
    rows = [plan.row(number) for number in range(plan.n_rows)]
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]
    inode = (tmp_path / "plan/pieces").stat().st_ino
    again = open_plan(stream, tmp_path / "plan", 16, **how)
    assert (tmp_path / "plan/pieces").stat().st_ino == inode
    again.check()
    content = bytearray((tmp_path / "plan/pieces").read_bytes())
    content[0] ^= 1
    (tmp_path / "plan/pieces").write_bytes(content)
    with pytest.raises(DataError, match=r"the plan .*pieces does not match its hash"):
        again.check()
    with pytest.raises(DataError, match="does not match its hash"):
        Plan(tmp_path / "plan", 16)
    mended = open_plan(stream, tmp_path / "plan", 16, **how)
    assert [mended.row(number) for number in range(mended.n_rows)] == rows


def test_where_nothing_can_be_written_the_plan_lies_elsewhere(tmp_path):
    (tmp_path / "file").write_text("")
    stream = Line([5, 9, 30, 2, 7])
    plan = open_plan(stream, tmp_path / "file" / "plan", 16, share=True, answers_only=False, what="the train split")
    assert sum(count for number in range(plan.n_rows) for _, count in plan.row(number)) == 48


def test_nothing_to_predict_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="the train split has no document with a token to predict"):
        open_plan(Line([1, 1]), tmp_path / "plan", 16, share=True, answers_only=False, what="the train split")
