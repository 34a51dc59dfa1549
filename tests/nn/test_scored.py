"""What attentions by softmax do with scores, and how their memories go on."""

import pytest
import torch

import gptwright as gw
from gptwright.nn.position.alibi import Alibi
from gptwright.ops.reference import reference_paths
from gptwright.ops.sequence import Sequence

SCORED = {"softcap": 5.0, "sinks": True}


def built(attention: dict, **more) -> torch.nn.Module:
    settings = {"vocab_size": 11, "d_model": 32, "n_layers": 1, "max_seq_len": 2048, **more}
    torch.manual_seed(0)
    model = gw.GPT(gw.ModelConfig.from_dict({**settings, "attention": {"n_heads": 4, **attention}}))
    found = model.layers[0].attention
    if found.sinks is not None:
        torch.nn.init.normal_(found.sinks)
    return found.eval()


@pytest.mark.parametrize("heads", [1, 3, 4, 6, 8, 12])
def test_slopes_are_those_of_bloom(heads):
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    positions = torch.ones(1, 5)
    bias = bloom.build_alibi_tensor(positions, heads, torch.float32)  # (heads, 1, 5): slope times position
    slopes = Alibi.Config().slopes(heads)
    torch.testing.assert_close(bias[:, 0, 1] - bias[:, 0, 0], torch.tensor(slopes))


@pytest.mark.parametrize("type_", ["softmax", "local"])
@pytest.mark.parametrize("position", ["rotary", "alibi"])
@pytest.mark.parametrize("scored", [{}, SCORED])
@pytest.mark.parametrize("sizes", [(1, 200, 99), (70, 130, 100), (299, 1), (64, 64, 172)])
@torch.no_grad()
def test_many_tokens_may_follow_many(type_, position, scored, sizes):
    window = {"window": 33} if type_ == "local" else {}
    attention = built({"type": type_, "n_kv_heads": 2, **window, **scored}, position=position)
    x = torch.randn(2, 300, 32)
    state, outs, at = attention.init_state(2, 300), [], 0
    for size in sizes:
        outs.append(attention(x[:, at : at + size], Sequence.plain(2, size, start=at), state))
        at += size
    with reference_paths():
        expected = attention(x, Sequence.plain(2, 300))
    torch.testing.assert_close(torch.cat(outs, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"type": "softmax"}, {"type": "local", "window": 33}, {"type": "latent"}])
@pytest.mark.parametrize("scored", [{}, SCORED])
@torch.no_grad()
def test_a_scale_multiplies_queries_before_all_else(settings, scored):
    plain = built({**settings, **scored}, position="rotary")
    scaled = built({**settings, **scored, "scale": 0.7}, position="rotary")
    width = 8 + (4 if settings["type"] == "latent" else 0)
    plain.q_proj.weight *= 0.7 * width**0.5
    x, seq = torch.randn(2, 90, 32), Sequence.plain(2, 90)
    torch.testing.assert_close(scaled(x, seq), plain(x, seq), rtol=1e-4, atol=1e-6)
    state = scaled.init_state(2, 90)
    pieces = [scaled(x[:, at : at + 30], Sequence.plain(2, 30, start=at), state) for at in (0, 30, 60)]
    torch.testing.assert_close(torch.cat(pieces, 1), plain(x, seq), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_piece_after_another_document_sees_none_of_it():
    attention = built({"type": "local", "window": 100})
    x = torch.randn(1, 130, 32)
    state = attention.init_state(1, 130)
    attention(x[:, :50], Sequence.packed(torch.full((1, 50), 3)), state)
    found = attention(x[:, 50:], Sequence.plain(1, 80), state)  # document 1, from its start
    torch.testing.assert_close(found, attention(x[:, 50:], Sequence.plain(1, 80)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("type_", ["softmax", "local"])
def test_weights_drop_in_training_only(type_):
    window = {"window": 33} if type_ == "local" else {}
    attention = built({"type": type_, "attention_dropout": 0.5, **window})
    x, seq = torch.randn(1, 200, 32), Sequence.plain(1, 200)
    assert torch.equal(attention(x, seq), attention(x, seq))
    attention.train()
    assert not torch.equal(attention(x, seq), attention(x, seq))
