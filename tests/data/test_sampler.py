"""Orders and mixtures: every row once an epoch, exact shares, all a pure function of (seed, number)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwright.data.sampler import Mixer, Order

seeds = st.integers(0, 2**70)


@given(n=st.integers(1, 3000), seed=seeds, epoch=st.integers(0, 10**9))
@settings(max_examples=150, deadline=None)
def test_every_row_exactly_once_an_epoch_under_one_key(n, seed, epoch):
    rows, keys = Order(n, seed).draw(epoch * n + np.arange(n))
    assert sorted(rows.tolist()) == list(range(n))
    assert len(set(keys.tolist())) == 1
    assert Order(n, seed).draw(np.array([(epoch + 1) * n]))[1] != keys[0]


@given(n=st.integers(1, 3000), seed=seeds, first=st.integers(0, 10**12), count=st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_a_pure_function_of_seed_and_number(n, seed, first, count):
    order = Order(n, seed)
    order.draw(np.array([first + count]))
    rows, keys = order.draw(first + np.arange(count))
    assert rows.dtype == np.int64
    again = [Order(n, seed).draw(np.array([number])) for number in range(first, first + count)]
    assert [int(row[0]) for row, _ in again] == rows.tolist()
    assert [int(key[0]) for _, key in again] == keys.tolist()


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [tuple(Order(199, seed).draw(np.arange(199))[0]) for seed in range(20)]
    epochs = [tuple(Order(199, 0).draw(199 * epoch + np.arange(199))[0]) for epoch in range(20)]
    assert len(set(orders)) == len(set(epochs)) == 20
    assert 45 < np.abs(np.diff(epochs[0])).mean() < 90  # a third of 199, as of a shuffled order; a sorted one has 1


def test_rows_are_uniform_at_each_place_of_the_order():
    first = [int(Order(9, seed).draw(np.array([0]))[0][0]) for seed in range(3000)]
    assert np.bincount(first, minlength=9).min() > 250  # 3000 over 9


weights = st.lists(st.integers(1, 999), min_size=1, max_size=6).map(lambda found: [n / sum(found) for n in found])


@given(weights=weights, first=st.integers(0, 10**12), count=st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_parts_count_their_own_rows_and_keep_their_shares(weights, first, count):
    mixer = Mixer(weights)
    parts, ranks = mixer.deal(first + np.arange(count))
    for part, weight in enumerate(weights):
        mine = ranks[parts == part]
        assert (np.diff(mine) == 1).all()  # none missed, none twice
        assert abs(len(mine) - weight * count) < 3 + len(weights) / 2
        if len(mine):
            rounded = first * len(weights) / 65536  # shares that are no simple fractions are rounded to these
            assert abs(mine[0] - first * weight) <= 3 + len(weights) / 2 + rounded
    assert mixer.deal(np.array([first]))[0] == parts[0]


def test_shares_are_exact_over_each_period():
    mixer = Mixer([0.7, 0.3])
    parts, _ = mixer.deal(np.arange(1000))
    assert mixer.period == 10
    assert (parts.reshape(-1, 10) == 1).sum(1).tolist() == [3] * 100
    assert np.ptp(Mixer([0.333333, 0.333333, 0.333334]).counts) <= 1
    assert Mixer([0.999999, 0.000001]).counts[1] == 1  # the smallest part is not forgotten


@given(weights=weights, rows=st.integers(1, 500))
@settings(max_examples=50, deadline=None)
def test_numbers_until_a_part_has_had_its_rows(weights, rows):
    mixer = Mixer(weights)
    for part in range(len(weights)):
        number = mixer.numbers_until(part, rows)
        assert [int(found[0]) for found in mixer.deal(np.array([number - 1]))] == [part, rows - 1]


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([0.7, 0.3], [7, 3]),
        ([1 / 3, 2 / 3], [1, 2]),
        ([0.3333333333, 0.3333333333, 0.3333333334], [1, 1, 1]),
        ([1 / 60, 1 / 60, 58 / 60], [1, 1, 58]),
        ([1.0], [1]),
    ],
)
def test_the_pattern_of_a_mixture_is_as_short_as_its_weights_allow(weights, counts):
    assert Mixer(weights).counts == counts
