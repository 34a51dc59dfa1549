"""Settings of a model: what fits together, and what is said of what does not."""

import pytest

import gptwright as gw


def said(settings, **changes) -> str:
    with pytest.raises(gw.ConfigError) as refused:
        gw.ModelConfig.from_dict(settings(**changes))
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention": {"type": "softmax", "n_heads": 3}}, "n_heads 3 must divide d_model 8; use 2 or 4 heads"),
        ({"attention": {"type": "softmax", "n_heads": 4, "n_kv_heads": 3}}, "n_kv_heads 3 must divide n_heads 4"),
        ({"attention": {"type": "softmax", "n_heads": 0}}, "n_heads"),
        ({"attention": {"type": "softmax"}}, "n_heads"),
        ({"attention": {"type": "local", "n_heads": 2, "window": 0}}, "window"),
        (
            {"attention": {"type": "linear", "n_heads": 2, "attention_dropout": 0.1}},
            "attention_dropout is impossible with linear attention",
        ),
        ({"attention": {"type": "softmx", "n_heads": 2}}, "did you mean 'softmax'?"),
        ({"attention": None}, "a model needs an attention"),
        ({"feed_forward": {"type": "moe", "n_experts": 2, "top_k": 3}}, "top_k 3 must be at most n_experts 2"),
        ({"feed_forward": {"type": "moe", "n_experts": 2, "expert": "moe"}}, "n_experts"),
        ({"position": "rotary", "attention": {"type": "softmax", "n_heads": 8}}, "need an even head_dim, and it is 1"),
        (
            {"position": "sinusoidal", "d_model": 7, "attention": {"type": "softmax", "n_heads": 7}},
            "need an even d_model",
        ),
        ({"blocks": {"a": {}}, "pattern": ["b"]}, "pattern names 'b', which is not among blocks (a)"),
        ({"attention": None, "blocks": {"a": {}}}, "block 'a' has no attention and the model names no default one"),
        (
            {"blocks": {"a": {"position": "learned"}}},
            "learned positions are added to the embeddings, before any layer, so that block 'a' cannot have them for "
            "itself; use rotary, alibi or none there, or set model.position",
        ),
        ({"blocks": {"a": {"position": {"type": "rotary", "fraction": 0.3}}}}, "fraction 0.3 of a head of 4 features"),
        (
            {"attention": {"type": "linear", "n_heads": 2}, "blocks": {"a": {"position": "alibi"}}},
            "alibi positions are subtracted from attention scores, and linear attention takes none",
        ),
        (
            {"attention": {"type": "linear", "n_heads": 2, "scale": 0.5}},
            "scale is impossible with linear attention, which forms no scores to multiply; leave it out",
        ),
        ({"embedding_scale": "depth"}, "embedding_scale"),
        ({"wiring": "per"}, "wiring"),
        ({"dropout": 1.0}, "dropout"),
        ({"init": "xavier"}, "init"),
        ({"d_modle": 8}, "did you mean 'd_model'?"),
    ],
)
def test_what_does_not_fit_is_named(settings, changes, words):
    assert words in said(settings, **changes)


def test_all_that_does_not_fit_is_said_at_once(settings):
    attention = {"type": "softmax", "n_heads": 3}
    found = said(settings, attention=attention, feed_forward={"type": "moe", "n_experts": 2, "top_k": 3})
    assert "attention.n_heads" in found
    assert "feed_forward.top_k" in found


def test_parts_of_a_hybrid_stack_are_checked_where_they_stand(settings):
    found = said(settings, blocks={"near": {"attention": {"type": "local", "n_heads": 3, "window": 2}}})
    assert "blocks.near.attention.n_heads" in found


def test_a_width_of_its_own_frees_the_heads(settings):
    config = gw.ModelConfig.from_dict(settings(attention={"type": "softmax", "n_heads": 3, "head_dim": 4}))
    assert gw.GPT(config).layers[0].attention.q_proj.weight.shape == (12, 8)


def test_a_vocabulary_is_needed_to_build(settings):
    config = gw.ModelConfig.from_dict({key: value for key, value in settings().items() if key != "vocab_size"})
    with pytest.raises(gw.ConfigError, match=r"model.vocab_size is not set; give it, or a tokenizer that does"):
        gw.GPT(config)


@pytest.mark.parametrize(
    ("settings_of", "params"),
    [
        ({"vocab_size": 50257, "d_model": 768, "n_layers": 12, "max_seq_len": 1024, "bias": True}, 124_439_808),
        ({"vocab_size": 50257, "d_model": 1600, "n_layers": 48, "max_seq_len": 1024, "bias": True}, 1_557_611_200),
    ],
)
def test_published_sizes(settings_of, params):
    heads = settings_of["d_model"] // 64
    config = gw.ModelConfig.from_dict({**settings_of, "attention": {"type": "softmax", "n_heads": heads}})
    assert config.num_params() == params


def test_flops_by_hand(settings):
    """Two for each weight and token forward, four for each head feature and key, three times that in training."""
    config = gw.ModelConfig.from_dict(
        settings(d_model=16, attention={"type": "softmax", "n_heads": 2, "n_kv_heads": 1})
    )
    attention = 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16) + 4 * 16 * 10
    feed_forward = 2 * (2 * 16 * 64)
    assert config.flops_per_token(10, training=False) == 2 * (attention + feed_forward) + 2 * 13 * 16
    assert config.flops_per_token(10) == 3 * config.flops_per_token(10, training=False)
    assert config.flops_per_token() == config.flops_per_token(context=10)


def test_active_params_of_a_mixture_by_hand(settings):
    moe = {"type": "moe", "n_experts": 5, "top_k": 2, "d_ff": 4, "n_shared": 1}
    config = gw.ModelConfig.from_dict(settings(feed_forward=moe))
    idle = 2 * 3 * (3 * 8 * 4)  # layers x experts not visited x a gated expert
    assert config.num_params() - config.active_params() == idle
