import torch

from gptwright.ops.sampling import keep_top_k, keep_top_p, sample

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
