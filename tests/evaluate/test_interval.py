"""The interval of a paired difference: it holds the truth as often as it says, and says when it cannot."""

import sys

import numpy as np
import pytest

import gptwright as gw
from gptwright.evaluate import interval
from gptwright.evaluate.interval import mean_difference, ratio_difference


def documents(draw, count, gain):
    """Return nats and bytes of ``count`` documents under two models: hard ones are hard for both, long ones weigh."""
    size = draw.lognormal(5, 0.8, count)
    hard = draw.normal(1.5, 0.3, count)
    first = size * (hard + draw.normal(0, 0.05, count) - gain)
    second = size * (hard + draw.normal(0, 0.05, count))
    return first, size, second, size


@pytest.mark.parametrize("count", [10, 20, 60])
def test_it_holds_the_truth_about_as_often_as_it_says(monkeypatch, count):
    monkeypatch.setattr(interval, "RESAMPLES", 499)
    draw, gain, trials = np.random.default_rng(0), 0.02, 300
    found = [ratio_difference(*documents(draw, count, gain), seed=n) for n in range(trials)]
    held = np.mean([each.low <= -gain <= each.high for each in found])
    assert 0.91 <= held <= 0.985  # 95 %, within three standard errors of so many trials


def test_pairing_sees_what_separate_intervals_would_not():
    draw = np.random.default_rng(1)
    first, size, second, _ = documents(draw, 100, 0.03)
    assert ratio_difference(first, size, second, size).sure
    shuffled = draw.permutation(100)  # the same documents, but no longer side by side
    assert not ratio_difference(first, size, second[shuffled], size[shuffled]).sure


def test_the_value_is_the_difference_of_the_ratios_of_sums():
    found = ratio_difference([1, 2, 3], [1, 1, 2], [2, 2, 2], [1, 2, 1])
    assert found.value == pytest.approx(6 / 4 - 6 / 4)
    assert mean_difference([1, 1, 0], [0, 0, 1]).value == pytest.approx(1 / 3)


def test_few_documents_have_no_interval():
    found = mean_difference([1.0] * 9, [0.0] * 9)
    assert (found.value, found.low, found.high, found.sure, found.documents) == (1, None, None, False, 9)
    assert mean_difference([1.0] * 10, [0.0] * 10).low is not None


def test_no_spread_is_no_doubt():
    same = mean_difference([0.5] * 20, [0.5] * 20)
    assert (same.value, same.low, same.high, same.sure) == (0, 0, 0, False)
    always = mean_difference([0.75] * 20, [0.5] * 20)
    assert (always.low, always.high, always.sure) == (pytest.approx(0.25), pytest.approx(0.25), True)


def test_one_odd_document_decides_nothing():
    found = mean_difference([1.0, *[0.0] * 19], [0.0] * 20)
    assert found.low is not None
    assert found.low <= 0 < found.high
    assert not found.sure


def test_the_same_figures_give_the_same_interval():
    figures = documents(np.random.default_rng(2), 40, 0.01)
    assert ratio_difference(*figures) == ratio_difference(*figures)
    assert ratio_difference(*figures) != ratio_difference(*figures, seed=1)


def test_very_many_documents_are_added_up_first(monkeypatch):
    figures = documents(np.random.default_rng(3), 3000, 0.01)
    whole = ratio_difference(*figures)
    monkeypatch.setattr(interval, "MOST", 300)
    grouped = ratio_difference(*figures)
    assert grouped.value == pytest.approx(whole.value)
    assert grouped.documents == 3000
    assert grouped.high - grouped.low == pytest.approx(whole.high - whole.low, rel=0.2)


def test_without_scipy_the_pip_line_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(gw.GptwrightError, match=r"an interval needs scipy, which is not installed: pip install 'gptwr"):
        mean_difference([1.0, 2.0] * 10, [0.0] * 20)
