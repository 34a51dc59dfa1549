"""The sampler: every window once an epoch, a pure function of (seed, step); validation: every token once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwright.data.sampler import IGNORE, Sampler, batch, validation_batches
from gptwright.errors import DataError


class Line:
    """The ids 0, 1, 2 ... as a stream."""

    def __init__(self, n: int) -> None:
        self.ids = np.arange(n, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, n: int) -> np.ndarray:
        assert 0 <= start <= start + n <= len(self)
        return self.ids[start : start + n]


sizes = st.tuples(st.integers(1, 40), st.integers(0, 3000)).map(lambda pair: (pair[0], pair[0] + 1 + pair[1]))
seeds = st.integers(0, 2**70)


@given(size=sizes, seed=seeds, epoch=st.integers(0, 10**9))
@settings(max_examples=150, deadline=None)
def test_every_window_exactly_once_an_epoch(size, seed, epoch):
    context, n_tokens = size
    sampler = Sampler(n_tokens, context, seed)
    starts = np.sort(sampler.starts(epoch * sampler.n_windows, sampler.n_windows))  # a batch of a whole epoch
    assert starts[0] >= 0
    assert starts[-1] + context + 1 <= n_tokens
    assert (np.diff(starts) == context).all()
    assert sampler.n_windows >= (n_tokens - 1) // context - 1


@given(size=sizes, seed=seeds, n=st.integers(1, 50), step=st.integers(0, 10**12))
@settings(max_examples=100, deadline=None)
def test_a_pure_function_of_seed_and_step(size, seed, n, step):
    context, n_tokens = size
    sampler = Sampler(n_tokens, context, seed)
    sampler.starts((step + 1) * n, n)
    first = sampler.starts(step * n, n)
    assert first.dtype == np.int64
    assert first.shape == (n,)
    assert (first == Sampler(n_tokens, context, seed).starts(step * n, n)).all()


@given(step=st.integers(0, 1000), n=st.integers(2, 20))
@settings(max_examples=50, deadline=None)
def test_steps_follow_one_another_in_one_order(step, n):
    sampler = Sampler(5000, 7, 3)
    both = np.concatenate([sampler.starts(2 * step * n, n), sampler.starts((2 * step + 1) * n, n)])
    assert (both == sampler.starts(2 * step * n, 2 * n)).all()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 12])
def test_the_same_global_batch_however_it_is_sliced(ranks):
    stream, sampler = Line(1000), Sampler(1000, 16, 5)
    starts = sampler.starts(48, 12)
    whole = batch(stream, starts, 16)
    parts = [batch(stream, part, 16) for part in np.split(starts, ranks)]
    for side in (0, 1):
        assert (np.concatenate([part[side] for part in parts]) == whole[side]).all()


def test_targets_are_one_token_later():
    sampler = Sampler(100, 8, 0)
    inputs, targets = batch(Line(100), sampler.starts(0, 4), 8)
    assert inputs.shape == targets.shape == (4, 8)
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == inputs + 1).all()


def test_seeds_and_epochs_have_orders_and_offsets_of_their_own():
    n_tokens, context = 64 * 200 + 1, 64
    orders = [tuple(Sampler(n_tokens, context, seed).starts(0, 199)) for seed in range(20)]
    sampler = Sampler(n_tokens, context, 0)
    epochs = [tuple(sampler.starts(199 * epoch, 199)) for epoch in range(20)]
    assert len(set(orders)) == len(set(epochs)) == 20
    assert len({min(epoch) % context for epoch in epochs}) > 10
    moves = np.abs(np.diff(np.array(epochs[0]))) // context
    assert 45 < moves.mean() < 90  # a third of 199, as of a shuffled order; a sorted one has 1


def test_windows_are_uniform_at_each_place_of_the_order():
    first = [int(Sampler(1 + 3 * 10, 3, seed).starts(0, 1)[0]) // 3 for seed in range(3000)]
    counts = np.bincount(first, minlength=9)[:9]
    assert counts.min() > 200  # 3000 over 9 or 10 places


def test_a_stream_shorter_than_a_window():
    assert Sampler(9, 8, 0).starts(0, 3).tolist() == [0, 0, 0]
    with pytest.raises(DataError, match=r"train split has 8 tokens, and one window of context 8 .* needs 9: give"):
        Sampler(8, 8, 0)
    with pytest.raises(DataError, match="validation split has 8 tokens"):
        next(validation_batches(Line(8), 8, 2))


@given(context=st.integers(1, 30), rows=st.integers(1, 7), more=st.integers(0, 500))
@settings(max_examples=150, deadline=None)
def test_validation_covers_every_token_but_the_first_once(context, rows, more):
    stream = Line(context + 1 + more)
    seen = []
    for inputs, targets in validation_batches(stream, context, rows):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] == context
        assert inputs.shape[0] <= rows
        assert inputs.dtype == targets.dtype == np.int64
        real = targets != IGNORE
        assert (inputs[real] + 1 == targets[real]).all()
        assert (inputs[~real] == 0).all()
        seen += targets[real].tolist()
    assert seen == list(range(1, len(stream)))
