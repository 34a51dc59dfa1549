"""What stands beside the parts of a block: scales, first values, the embeddings' norm and width, the head's bias."""

import pytest
import torch

import gptwright as gw
from gptwright.generate.engine import Engine, Request
from gptwright.generate.sampling import Sampling
from gptwright.model.block import WIRINGS
from gptwright.model.count import count
from gptwright.model.quantized import quantize
from gptwright.optim.roles import roles


def hidden_and_states(model, ids):
    """Return logits of all at once, and of a few tokens at a time."""
    states = model.init_states(batch=len(ids), length=ids.shape[1])
    parts = [model(ids[:, a:b], states=states) for a, b in ((0, 4), (4, 5), (5, 9))]
    return model(ids), torch.cat(parts, 1)


@pytest.mark.parametrize("wiring", list(WIRINGS))
def test_what_parts_add_is_scaled(build, wiring):
    seq, x = gw.Sequence.plain(2, 5), torch.randn(2, 5, 8)
    plain, scaled = build(wiring=wiring).layers[0], build(wiring=wiring, residual_scale=0.25).layers[0]
    learned = build(wiring=wiring, layer_scale=0.25).layers[0]
    assert (scaled(x, seq) - plain(x, seq)).abs().max() > 1e-3
    torch.testing.assert_close(learned(x, seq), scaled(x, seq))


def test_a_scale_by_depth(build):
    assert build(residual_scale="depth", n_layers=8).layers[0].residual_factor == 0.25


def test_learned_scales_are_vectors_that_learn(build, ids):
    model = build(layer_scale=0.1)
    model(ids).square().mean().backward()
    for name in ("attention_scale", "feed_forward_scale"):
        scale = model.layers[1].get_parameter(name)
        assert scale.shape == (8,)
        assert scale.eq(0.1).all()
        assert scale.grad.abs().min() > 0


@pytest.mark.parametrize("attention", ["softmax", "linear", {"type": "local", "window": 3}])
@torch.no_grad()
def test_later_layers_take_their_share_of_the_first_values(build, ids, attention):
    attention = {"n_heads": 2, **(attention if isinstance(attention, dict) else {"type": attention})}
    model = build(attention=attention, value_residual=0.3)
    seen = []
    for layer in model.layers:
        layer.attention.v_proj.register_forward_hook(lambda module, given, out: seen.append(out))
    project, mixed = model.layers[1].attention.project, []
    model.layers[1].attention.project = lambda x, seq: mixed.append(project(x, seq)) or mixed[-1]
    model(ids)
    expected = 0.7 * seen[1] + 0.3 * seen[0]
    torch.testing.assert_close(mixed[0][2].transpose(1, 2).flatten(2), expected)
    full, pieces = hidden_and_states(build(attention=attention, value_residual=0.3), ids)
    torch.testing.assert_close(pieces, full)


def test_values_of_other_shapes_are_refused(settings):
    blocks = {
        "wide": {"attention": {"type": "softmax", "n_heads": 4}},
        "narrow": {"attention": {"type": "softmax", "n_heads": 4, "n_kv_heads": 2}},
    }
    with pytest.raises(gw.ConfigError) as refused:
        gw.ModelConfig.from_dict(settings(blocks=blocks, value_residual=0.5))
    assert "values of layer 0, (heads, width) (4, 2), into layer 1, which has (2, 2)" in str(refused.value)
    assert "give both the same n_kv_heads and head_dim, or set value_residual to 0" in str(refused.value)


@torch.no_grad()
def test_embeddings_are_normed_before_positions(build, ids):
    model, seen = build(embedding_norm="rms_norm"), []
    model.embedding_norm.register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    model.position.register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    model(ids)
    assert torch.equal(seen[0][0], model.token_embedding(ids))
    torch.testing.assert_close(seen[0][1].square().mean(-1), torch.ones(ids.shape), rtol=1e-3, atol=1e-3)
    assert torch.equal(seen[1][0], seen[0][1])


def test_a_narrower_embedding_is_projected(build, ids):
    model = build(d_embedding=4, tie_embeddings=False)
    assert model.token_embedding.weight.shape == (13, 4)
    assert model.lm_head.weight.shape == (13, 8)
    assert model.num_params() == model.config.num_params()
    assert build(d_embedding=8).state_dict().keys() == build().state_dict().keys()
    full, pieces = hidden_and_states(model, ids)
    torch.testing.assert_close(pieces, full)


@pytest.mark.parametrize(("scale", "factor"), [(3.0, 3.0), ("width", 8**0.5)])
@torch.no_grad()
def test_embeddings_are_scaled_after_their_norm_and_before_positions(build, ids, scale, factor):
    model, seen = build(embedding_scale=scale, embedding_norm="rms_norm"), []
    model.position.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    full, pieces = hidden_and_states(model, ids)
    torch.testing.assert_close(seen[-1], model.embedding_norm(model.token_embedding(ids)) * factor)
    torch.testing.assert_close(seen[-1], torch.cat(seen[:-1], 1))
    torch.testing.assert_close(pieces, full)
    bare = build(embedding_scale=scale)
    torch.testing.assert_close(bare._enter(ids), bare.token_embedding(ids) * factor)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_s_bias_is_added_to_the_logits(build, ids, tied):
    model, plain = build(head_bias=True, tie_embeddings=tied), build(tie_embeddings=tied)
    assert model.lm_head.bias.shape == (13,)
    assert not model.lm_head.bias.any()
    assert any(parameter is model.lm_head.bias for parameter in roles(model).vectors)
    assert model.num_params() == model.config.num_params() == plain.num_params() + 13
    assert count(model.config).flops_per_token == count(plain.config).flops_per_token
    model.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.normal_(model.lm_head.bias)
    torch.testing.assert_close(model(ids), plain(ids) + model.lm_head.bias)
    found = model.summed_loss(model.hidden(ids, model.describe(ids)), ids)
    expected = gw.loss(model(ids), ids, reduction="sum")
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(each, list(model.parameters())) for each in (found, expected)]
    torch.testing.assert_close(grads[0], grads[1])


@torch.no_grad()
def test_the_head_s_bias_is_there_in_few_bits_and_in_recorded_steps(build):
    model = build(head_bias=True, embedding_scale="width", position="rotary", max_seq_len=24)
    model.lm_head.bias[:] = torch.linspace(-1, 1, 13)[torch.randperm(13)]
    for each in (model, quantize(model, 8)):
        engine, whole = Engine(each), torch.tensor([[1, 2, 3]])
        ticket = engine.submit(Request([1, 2, 3], Sampling(max_new_tokens=12, temperature=0)))
        engine.run()
        for _ in range(12):
            whole = torch.cat((whole, each(whole)[:, -1:].argmax(-1)), 1)
        assert whole[0, 3:].tolist() == list(ticket.ids)


@torch.no_grad()
def test_a_kind_of_layer_may_have_its_own_positions(build, ids):
    """Each layer does what it does in a model whose only positions are its own."""
    own = {"far": {"type": "rotary", "theta": 50.0}, "none": "none", "alibi": "alibi"}
    blocks = {name: {"position": position} for name, position in own.items()} | {"model's": {}}
    model = build(blocks=blocks, position="rotary", n_layers=5)
    x, seq = torch.randn(2, 9, 8), gw.Sequence.plain(2, 9)
    for index, position in enumerate([*own.values(), "rotary", own["far"]]):
        alone = build(position=position, n_layers=5).layers[index].attention
        torch.testing.assert_close(model.layers[index].attention(x, seq), alone(x, seq))
    full, pieces = hidden_and_states(model, ids)
    torch.testing.assert_close(pieces, full)
    learned = build(blocks={"a": {"position": "rotary"}})  # the model's own are added as ever
    assert learned.position.weight.shape == (10, 8)
    assert gw.ModelConfig.from_dict(learned.config.to_dict()) == learned.config


def test_tying_tables_of_different_widths_is_refused(settings):
    with pytest.raises(gw.ConfigError) as refused:
        gw.ModelConfig.from_dict(settings(d_embedding=4))
    assert "a table of d_embedding 4 with a head that reads d_model 8" in str(refused.value)
    assert "make them equal, or set tie_embeddings to false" in str(refused.value)


@torch.no_grad()
def test_logits_are_bounded(build, ids):
    plain, bounded = build()(ids) * 50, build(logit_softcap=0.5)
    bounded.final_norm.weight *= 50
    found = bounded(ids)
    assert plain.abs().max() > 1
    torch.testing.assert_close(found, 0.5 * torch.tanh(plain / 0.5))
    assert found.abs().max() <= 0.5


def test_the_loss_is_that_of_bounded_logits(build, ids):
    model = build(logit_softcap=0.5)
    hidden = model.hidden(ids, model.describe(ids))
    found = model.summed_loss(hidden, ids, label_smoothing=0.1)
    expected = gw.loss(model(ids), ids, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(each, list(model.parameters())) for each in (found, expected)]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(
    ("attention", "words"),
    [
        ({"type": "linear", "n_heads": 2, "window": 4}, "window is impossible with linear attention"),
        ({"type": "softmax", "n_heads": 2, "window": 4}, "it is a setting of 'local'"),
        ({"type": "softmax", "n_heads": 2, "feature_map": "elu"}, "it is a setting of 'linear'"),
    ],
)
def test_a_setting_of_another_part_is_refused_with_the_reason(settings, attention, words):
    with pytest.raises(gw.ConfigError) as refused:
        gw.ModelConfig.from_dict(settings(attention=attention))
    assert words in str(refused.value)


def test_alibi_is_refused_where_there_are_no_scores(settings):
    with pytest.raises(gw.ConfigError) as refused:
        gw.ModelConfig.from_dict(settings(position="alibi", attention={"type": "linear", "n_heads": 2}))
    assert "alibi positions are subtracted from attention scores, and linear attention takes none" in str(refused.value)
    assert "use rotary positions with it, or softmax attention" in str(refused.value)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("feed_forward", ["mlp", {"type": "moe", "n_experts": 3, "d_ff": 8}])
def test_layers_computed_again_give_the_same_gradients(build, ids, dropout, feed_forward):
    gradients, kept = [], []
    for again in (False, True):
        model = build(n_layers=3, dropout=dropout, feed_forward=feed_forward, value_residual=0.5).train()
        model.gradient_checkpointing = again
        saved = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x):
            seq = model.describe(ids)
            out = model.logits(model.hidden(ids, seq)).square().mean() + sum(seq.aux_losses)
        gradients.append(torch.autograd.grad(out, list(model.parameters())))
        kept.append(sum(saved))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-8)
    assert kept[1] < kept[0] / 3
