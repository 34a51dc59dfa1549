"""Choosing tokens: the distribution that was asked for, and nothing that depends on who stands beside."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptwright.errors import GptwrightError
from gptwright.generate.choose import Chooser, _greatest, choose
from gptwright.generate.draw import _passes, draw, uniform
from gptwright.generate.narrow import likeliest, narrow
from gptwright.generate.sampling import Sampling
from gptwright.ops import sampling as reference

VOCAB = 3000
EVERY = {
    "greedy": {"temperature": 0},
    "plain": {"temperature": 1.0},
    "top_k": {"top_k": 40},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.05},
    "typical": {"typical_p": 0.5},
    "all": {"temperature": 1.3, "top_k": 500, "top_p": 0.95, "min_p": 0.001, "typical_p": 0.9},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": -0.2},
    "bias": {"logit_bias": {3: 5.0, 4: -math.inf}, "logprobs": 3},
}


def logits(*shape, scale=3.0, seed=0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def chooser(seed=1, sample=0, prompt=(1, 2, 3), vocab=VOCAB, end_ids=(), constraint=None, **settings):
    return Chooser(Sampling(**settings), prompt, vocab, seed, sample, end_ids, constraint)


def tokens(rows, one):
    return [choose(row[None], [one])[0].token for row in rows]


def chi_square(counts, probs, draws):
    """Return by how many standard deviations the statistic is off its mean (cells expected below 5 are joined)."""
    expected = probs * draws
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    cells = expected > 0
    assert counts[~cells].sum() == 0
    statistic = ((counts[cells] - expected[cells]) ** 2 / expected[cells]).sum()
    freedom = cells.sum() - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


# What is drawn


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 1},
        {"top_k": 700},
        {"top_k": 10**6},
        {"top_p": 0.3},
        {"top_p": 0.9999},
        {"top_p": 1.0},
        {"min_p": 0.01},
        {"min_p": 1.0},
        {"typical_p": 0.3},
        {"typical_p": 0.999},
        {"top_k": 300, "top_p": 0.8},
        {"top_k": 300, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.7},
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [0.1, 3.0], ids=["flat", "sharp"])
def test_the_fast_filters_keep_what_the_readable_ones_keep(settings, scale):
    for seed in range(4):
        row = logits(VOCAB, scale=scale, seed=seed).double()  # the readable ones in float64: no luck with rounding
        expected = row
        for name, value in settings.items():
            keep = getattr(reference, {"typical_p": "keep_typical"}.get(name, f"keep_{name}"))
            expected = keep(expected, value)
        scores = (row - row.max()).numpy()
        found, places = narrow(scores, Sampling(**settings))
        places = np.arange(VOCAB) if places is None else places
        assert places.tolist() == expected.isfinite().nonzero().flatten().tolist()
        assert np.array_equal(found, scores[places])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_likeliest_come_in_order_and_the_first_of_equals_first(levels, k):
    scores = np.array(levels, np.float32)
    expected = sorted(range(len(levels)), key=lambda place: (-levels[place], place))[:k]
    assert likeliest(scores, k).tolist() == expected


@pytest.mark.parametrize("settings", [EVERY[name] for name in ("plain", "top_k", "top_p", "min_p", "typical", "all")])
def test_draws_follow_the_probabilities(settings):
    row, draws = logits(1200, scale=2.0), 4000
    one = chooser(vocab=1200, **settings)
    expected = row / one.sampling.temperature
    for name, value in settings.items():
        if name != "temperature":
            expected = getattr(reference, {"typical_p": "keep_typical"}.get(name, f"keep_{name}"))(expected, value)
    probs = expected.double().softmax(-1).numpy()
    counts = np.bincount(tokens(row.expand(draws, -1), one), minlength=1200)
    assert abs(chi_square(counts, probs, draws)) < 3.5
    uneven = np.roll(probs, 1)
    assert chi_square(counts, np.where(uneven > 0, uneven, 0.1), draws) > 20  # the test can fail


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 1500), st.integers(0, 5))
def test_a_draw_is_where_the_distribution_function_passes_the_chance(chance, size, seed):
    scores = np.random.default_rng(seed).normal(size=size).astype(np.float32) * 4
    scores[::3] = -np.inf
    scores[size // 2] = 1.0
    weights = np.exp(scores - scores.max()).astype(np.float64)
    bounds = weights.cumsum() / weights.sum()
    place = draw(scores, chance)
    assert weights[place] > 0
    assert bounds[place] >= chance - 1e-12
    assert place == 0 or bounds[place - 1] <= chance + 1e-12


def test_the_ends_of_chance_draw_tokens_that_may_be_drawn():
    scores = np.full(2000, -np.inf, np.float32)
    scores[[700, 1300]] = 0
    assert draw(scores, 0.0) == 700
    assert draw(scores, 1 - 2**-53) == 1300
    assert draw(scores[:900], 1 - 2**-53) == 700
    weights = np.array([1.0, 1.0, 0.0])
    assert _passes(weights.cumsum(), weights, 2.0) == 1  # as rounding may ask for


def test_a_temperature_near_zero_takes_the_likeliest():
    row = logits(VOCAB)
    for temperature in (1e-3, 1e-30, 5e-324):
        assert tokens(row[None], chooser(temperature=temperature)) == [int(row.argmax())]


def test_greedy_takes_the_first_of_equally_likely_tokens():
    rows = torch.tensor([[0.0, 2.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert [c.token for c in choose(rows, [chooser(temperature=0, vocab=4) for _ in rows])] == [1, 0]
    assert tokens(rows, chooser(top_k=1, vocab=4)) == [1, 0]


def test_on_a_device_that_is_no_cpu_the_greatest_is_the_same_and_damage_is_seen():
    rows = logits(5, VOCAB)
    assert _greatest(rows) == choose(rows, [chooser(temperature=0) for _ in rows])
    rows[3, 7] = math.nan
    with pytest.raises(GptwrightError, match="nan among them"):
        _greatest(rows)


# Chance


@given(st.integers(), st.integers(0, 10**9), st.integers(0, 10**9))
def test_chance_is_in_the_half_open_interval_and_repeatable(seed, sample, index):
    assert 0 <= uniform(seed, sample, index) < 1
    assert uniform(seed, sample, index) == uniform(seed, sample, index)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["seed", "sample", "index"])
def test_chance_is_even_and_neighbours_are_independent(axis):
    base = np.array([7, 0, 0])
    values = np.array([uniform(*map(int, base + n * np.eye(3, dtype=int)[axis])) for n in range(20_000)])
    assert abs(chi_square(np.histogram(values, 50, (0, 1))[0], np.full(50, 0.02), len(values))) < 3.5
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 4 / math.sqrt(len(values))
    pairs = np.histogram2d(values[::2], values[1::2], 8, ((0, 1), (0, 1)))[0].ravel()
    assert abs(chi_square(pairs, np.full(64, 1 / 64), len(values) // 2)) < 3.5


def test_seeds_samples_and_places_have_chances_of_their_own():
    places = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (10**400, 0, 0), (1, 17, 0), (17, 1, 0), (0, 17, 1)]
    assert len({uniform(*place) for place in places}) == len(places)


# Nothing depends on who stands beside


@pytest.mark.parametrize("settings", EVERY.values(), ids=EVERY)
def test_a_sequence_is_the_same_alone_and_in_any_batch_and_order(settings):
    steps, n = 6, len(EVERY)
    rows = logits(steps, n, VOCAB)
    mine = list(EVERY.values()).index(settings)
    expected = []
    alone = chooser(seed=mine, **settings)
    for step in range(steps):
        expected += choose(rows[step, mine : mine + 1].clone(), [alone])
    for order in (list(range(n)), list(reversed(range(n))), [mine, (mine + 1) % n]):
        all_choosers = [chooser(seed=number, **each) for number, each in enumerate(EVERY.values())]
        found = [choose(rows[step, order], [all_choosers[row] for row in order]) for step in range(steps)]
        assert [choices[order.index(mine)] for choices in found] == expected  # log-probabilities to the last bit


def test_a_seed_and_a_sample_decide():
    rows = logits(30, VOCAB, scale=1.0)
    texts = [tokens(rows, chooser(seed=seed, sample=sample)) for seed, sample in [(1, 0), (1, 0), (2, 0), (1, 1)]]
    assert texts[0] == texts[1]
    assert all(one != other for one, other in pairwise(texts[1:]))


def test_logits_are_left_as_they_were():
    rows = logits(len(EVERY), VOCAB)
    before = rows.clone()
    choose(rows, [chooser(min_new_tokens=2, end_ids=(5,), **settings) for settings in EVERY.values()])
    assert torch.equal(rows, before)


# Settings that look back, and log-probabilities


def test_repetition_counts_the_prompt_and_the_others_only_the_text():
    flat = torch.tensor([[4.0, 3.9, 3.8, 0.0]])
    how = {"temperature": 0, "prompt": (0,), "vocab": 4}
    assert tokens(flat.expand(3, -1), chooser(repetition_penalty=2.0, **how)) == [1, 2, 0]
    assert tokens(flat.expand(4, -1), chooser(presence_penalty=0.15, **how)) == [0, 1, 0, 0]
    assert tokens(flat.expand(5, -1), chooser(frequency_penalty=0.15, **how)) == [0, 1, 0, 2, 1]


def test_a_bias_forces_and_bans():
    row = logits(1, VOCAB)
    assert tokens(row, chooser(temperature=0, logit_bias={77: 100.0})) == [77]
    best = int(row.argmax())
    assert tokens(row, chooser(temperature=0, logit_bias={best: -math.inf})) != [best]


def test_ends_are_ruled_out_until_there_is_enough():
    row = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).expand(4, -1)
    how = {"temperature": 0, "vocab": 4}
    assert tokens(row, chooser(min_new_tokens=2, end_ids=(0,), stop_ids=(1,), **how)) == [2, 2, 0, 0]
    assert tokens(row, chooser(min_new_tokens=2, end_ids=(0,), ignore_end=True, **how)) == [0, 0, 0, 0]


def test_log_probabilities_are_those_of_the_model():
    row = logits(1, VOCAB)
    expected = row[0].double().log_softmax(-1)
    (choice,) = choose(row, [chooser(temperature=5.0, top_k=3, logit_bias={9: 50.0}, logprobs=4)])
    assert choice.token == 9
    assert choice.logprob == pytest.approx(float(expected[9]), abs=1e-6)
    values, ids = expected.topk(4)
    assert [id for id, _ in choice.top] == ids.tolist()
    assert [value for _, value in choice.top] == pytest.approx(values.tolist(), abs=1e-6)
    (choice,) = choose(row, [chooser(temperature=0, logprobs=0)])
    assert choice.logprob == pytest.approx(float(expected.max()), abs=1e-6)
    assert choice.top == ()
    assert choose(row, [chooser()])[0][1:] == (None, None)


class Only:
    """A constraint that allows some tokens, and remembers what came."""

    finished = False

    def __init__(self, *ids):
        self.allowed, self.taken = torch.zeros(100, dtype=torch.bool), []
        self.allowed[list(ids)] = True

    def mask(self):
        return self.allowed

    def take(self, token):
        self.taken.append(token)


def test_a_constraint_says_what_there_is_to_choose_from():
    rows = logits(200, VOCAB)
    for settings in ({"temperature": 0}, {}, {"top_k": 2}, {"top_p": 0.5, "typical_p": 0.9}, {"min_p": 0.5}):
        only = Only(3, 50, 99)
        found = tokens(rows, chooser(constraint=only, **settings))
        assert set(found) <= {3, 50, 99}
        assert only.taken == found
        if not settings or "temperature" in settings:
            assert len(set(found)) == 3
    best = rows[:, [3, 50, 99]].argmax(-1)
    assert tokens(rows, chooser(constraint=Only(3, 50, 99), temperature=0)) == [(3, 50, 99)[n] for n in best]


# Refusals


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 1.0}, {"logit_bias": {1: 1.0}}], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_damaged_logits_are_refused_and_nobody_is_told_a_token(how, bad):
    rows = logits(2, VOCAB)
    rows[1, 1:] = bad
    rows[1, 0] = -math.inf
    one, two = chooser(**how), chooser(**how)
    with pytest.raises(GptwrightError, match="no token can be chosen from the model's logits, which have"):
        choose(rows, [one, two])
    assert one.index == two.index == 0


def test_settings_that_leave_nothing_are_refused():
    row = logits(1, 3)
    with pytest.raises(GptwrightError, match="new token 1 cannot be chosen: logit_bias and min_new_tokens rule out"):
        choose(row, [chooser(vocab=3, logit_bias=dict.fromkeys(range(3), -math.inf))])
    for constraint in (Only(2), Only()):
        with pytest.raises(GptwrightError, match=r"the constraint and the other settings .* contradict"):
            choose(logits(1, VOCAB), [chooser(constraint=constraint, min_new_tokens=1, end_ids=(2,))])
