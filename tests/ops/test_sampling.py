import math

import pytest
import torch
from transformers.generation import logits_process as theirs

from gptwright.ops.sampling import (
    add_bias,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalise_counts,
    penalise_repetition,
    sample,
)

LOGITS = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]).log()


def kept(logits: torch.Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().flatten().tolist() for row in logits]


def drawn(count: int, **how) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = LOGITS[:1].expand(count, 4)
    return torch.bincount(sample(rows, generator=generator, **how), minlength=4) / count


def test_temperature_zero_takes_the_likeliest():
    assert sample(LOGITS, temperature=0).tolist() == [0, 3]


def test_draws_follow_the_probabilities():
    torch.testing.assert_close(drawn(20_000), LOGITS[0].exp(), rtol=0, atol=0.015)


def test_temperature_sharpens():
    expected = (LOGITS[0] / 0.5).softmax(-1)
    torch.testing.assert_close(drawn(20_000, temperature=0.5), expected, rtol=0, atol=0.015)


def test_top_k():
    assert kept(keep_top_k(LOGITS, 2)) == [[0, 1], [2, 3]]
    assert kept(keep_top_k(LOGITS, 99)) == [[0, 1, 2, 3]] * 2
    assert drawn(500, top_k=1).tolist() == [1, 0, 0, 0]


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    assert kept(keep_top_p(LOGITS, 0.45)) == [[0], [2, 3]]
    assert kept(keep_top_p(LOGITS, 0.74)) == [[0, 1], [1, 2, 3]]
    assert kept(keep_top_p(LOGITS, 0.76)) == [[0, 1, 2], [1, 2, 3]]
    assert kept(keep_top_p(LOGITS, 1.0)) == [[0, 1, 2, 3]] * 2
    assert kept(keep_top_p(LOGITS, 1e-9)) == [[0], [3]]


def test_a_generator_makes_draws_repeatable_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    draws = [drawn(50, top_p=0.9) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_logits_are_sampled_in_fp32():
    wide = torch.zeros(1, 50_000, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    found = sample(wide.expand(200, -1), top_p=0.999, generator=generator)
    assert found.unique().numel() > 150


def test_of_equally_likely_tokens_the_first_stay():
    level = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert kept(keep_top_k(level, 2)) == [[1, 2], [0, 1]]
    assert kept(keep_top_k(level, 4)) == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert kept(keep_top_p(level, 0.35)) == [[1, 2], [0, 1]]
    assert kept(keep_typical(level[1:], 0.35)) == [[0, 1]]
    assert kept(keep_top_k(level[0][None], 1)) == [[1]]


def test_one_row_alone_needs_no_batch():
    for keep in (lambda x: keep_top_k(x, 2), lambda x: keep_top_p(x, 0.7), lambda x: keep_min_p(x, 0.4)):
        assert torch.equal(keep(LOGITS)[1], keep(LOGITS[1]))
    assert torch.equal(keep_typical(LOGITS, 0.5)[1], keep_typical(LOGITS[1], 0.5))


def test_min_p_is_measured_from_the_likeliest():
    assert kept(keep_min_p(LOGITS, 0.55)) == [[0], [2, 3]]
    assert kept(keep_min_p(LOGITS, 0.45)) == [[0, 1], [1, 2, 3]]
    assert kept(keep_min_p(LOGITS, 1)) == [[0], [3]]
    assert kept(keep_min_p(LOGITS, 0)) == [[0, 1, 2, 3]] * 2


def test_typical_may_drop_the_likeliest():
    probs = torch.tensor([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    entropy = -(probs * probs.log()).sum()
    assert abs(-math.log(0.1) - entropy) < abs(-math.log(0.4) - entropy)
    assert kept(keep_typical(probs.log()[None], 0.25)) == [[1, 2, 3]]


def test_what_is_ruled_out_stays_out():
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf]])
    for found in (keep_top_k(logits, 3), keep_top_p(logits, 0.999), keep_min_p(logits, 0.1), keep_typical(logits, 1.0)):
        assert kept(found) == [[0, 2]]


def test_a_bias_is_added_and_leaves_the_logits_alone():
    before = LOGITS.clone()
    found = add_bias(LOGITS, {3: 2.0, 0: -torch.inf})
    assert torch.equal(LOGITS, before)
    assert found[0].tolist() == [-torch.inf, LOGITS[0, 1], LOGITS[0, 2], LOGITS[0, 3] + 2]


def test_counts_are_penalised_once_and_each_time():
    counts = torch.tensor([0.0, 1.0, 3.0])
    found = penalise_counts(torch.zeros(3), counts, presence=0.5, frequency=0.25)
    assert found.tolist() == [0, -0.75, -1.25]


@pytest.mark.parametrize(
    ("ours", "processor"),
    [
        (lambda x: keep_top_k(x, 7), lambda: theirs.TopKLogitsWarper(7)),
        (lambda x: keep_top_p(x, 0.8), lambda: theirs.TopPLogitsWarper(0.8)),
        (lambda x: keep_min_p(x, 0.2), lambda: theirs.MinPLogitsWarper(0.2)),
        (lambda x: keep_typical(x, 0.6), lambda: theirs.TypicalLogitsWarper(0.6)),
        (lambda x: keep_typical(keep_top_k(x, 20), 0.6), lambda: _both(theirs.TopKLogitsWarper(20), 0.6)),
        (
            lambda x: penalise_repetition(x, _seen(x), 1.7),
            lambda: theirs.RepetitionPenaltyLogitsProcessor(1.7),
        ),
    ],
    ids=["top_k", "top_p", "min_p", "typical_p", "top_k then typical_p", "repetition_penalty"],
)
def test_filters_are_those_of_transformers(ours, processor, draw):
    (logits,) = draw((50, 60))
    expected = processor()(PROMPTS, 3 * logits)
    assert torch.equal(ours(3 * logits), expected)
    assert not torch.equal(expected, 3 * logits)


PROMPTS = torch.randint(60, (50, 9), generator=torch.Generator().manual_seed(3))


def _seen(logits):
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, PROMPTS, True)


def _both(first, mass):
    return theirs.LogitsProcessorList([first, theirs.TypicalLogitsWarper(mass)])
