"""Wirings: where the norms stand, written out."""

import pytest
import torch

import gptwright as gw
from gptwright.model.block import WIRINGS


def wired(wiring: str, x, layer, seq):
    def att(y):
        return layer.attention(y, seq)

    def ff(y):
        return layer.feed_forward(y, seq)

    if wiring == "pre":
        x = x + att(layer.attention_norm(x))
        return x + ff(layer.feed_forward_norm(x))
    if wiring == "post":
        x = layer.attention_norm(x + att(x))
        return layer.feed_forward_norm(x + ff(x))
    if wiring == "sandwich":
        x = x + layer.attention_post_norm(att(layer.attention_norm(x)))
        return x + layer.feed_forward_post_norm(ff(layer.feed_forward_norm(x)))
    y = layer.attention_norm(x)
    if wiring == "parallel_norms":
        return x + att(y) + ff(layer.feed_forward_norm(x))
    return x + att(y) + ff(y)


@pytest.mark.parametrize("wiring", list(WIRINGS))
def test_wiring(build, wiring):
    model = build(wiring=wiring)
    with torch.no_grad():
        for param in model.parameters():
            param += 0.2 * torch.randn_like(param)
    x, seq = torch.randn(2, 5, 8), gw.Sequence.plain(2, 5)
    layer = model.layers[1]
    torch.testing.assert_close(layer(x, seq), wired(wiring, x, layer, seq))


def test_a_post_norm_model_ends_with_its_last_norm(build, ids):
    assert "final_norm.weight" not in build(wiring="post").state_dict()
    assert "final_norm.weight" in build(wiring="pre").state_dict()


def test_the_residual_stream_itself_is_never_normalised(build):
    """In pre-norm the identity path stays open: a huge input comes through as it is."""
    layer = build(wiring="pre").layers[0]
    x = 1e4 * torch.randn(1, 3, 8)
    assert (layer(x, gw.Sequence.plain(1, 3)) - x).abs().max() < 100
