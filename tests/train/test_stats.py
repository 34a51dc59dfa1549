"""Gradient statistics: norms by part, and the noise scale of a gradient whose noise is known."""

import pytest
import torch

from gptwright.train.stats import noise_scale

from .. import tiny
from ..tiny import train


def test_the_noise_scale_is_that_of_known_noise():
    """Micro-batches of 4 tokens whose gradients are a known direction plus noise of known size a token."""
    generator = torch.Generator().manual_seed(0)
    direction, per_token, found = torch.full((400,), 0.5), 2.0, []
    for _ in range(200):
        each = [direction + per_token * torch.randn(400, generator=generator).mul(4**-0.5) for _ in range(8)]
        shares = [(4.0, float((gradient / 8).norm()) ** 2) for gradient in each]
        estimate = noise_scale(shares, float(sum(each).div(8).norm()) ** 2)
        assert estimate is not None
        found.append(estimate)
    exact = per_token**2 * 400 / float(direction.norm()) ** 2
    assert sum(found) / 200 == pytest.approx(exact, rel=0.1)


def test_nothing_can_be_said_of_one_micro_batch_or_of_pure_noise():
    assert noise_scale([(8.0, 1.0)], 1.0) is None
    assert noise_scale([(8.0, 1.0), (0.0, 0.0)], 1.0) is None
    assert noise_scale([(8.0, 1.0), (8.0, 1.0)], 0.5) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_norms_by_part_add_up_and_training_is_the_same(settings, tmp_path, precision):
    changes = {"train.precision": precision, "train.micro_batch": 2}
    train(settings(changes), tmp_path / "plain")
    train(settings({**changes, "train.gradient_stats": True}), tmp_path / "watched")
    assert tiny.contents(tmp_path / "plain", 12) == tiny.contents(tmp_path / "watched", 12)
    noise = 0
    for row in tiny.curve(tmp_path / "watched").values():
        parts = {name: value for name, value in row.items() if name.startswith("grad_norm/")}
        assert set(parts) >= {"grad_norm/attention", "grad_norm/feed_forward", "grad_norm/token_embedding"}
        assert sum(value**2 for value in parts.values()) ** 0.5 == pytest.approx(row["grad_norm"], rel=1e-4)
        noise += "grad_noise_scale" in row
    assert noise >= 6
