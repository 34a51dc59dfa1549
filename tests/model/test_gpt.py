"""The whole model, against one written out by hand, and what it says to calls that make no sense."""

import math

import pytest
import torch
import torch.nn.functional as F

import gptwright as gw


def by_hand(weights: dict[str, torch.Tensor], ids: torch.Tensor, heads: int) -> torch.Tensor:
    """GPT-2 as its paper has it: learned positions, pre-norm, softmax, GELU, a tied head, biases everywhere."""
    w = weights.__getitem__
    rows, length = ids.shape
    x = w("token_embedding.weight")[ids] + w("position.weight")[:length]
    future = torch.ones(length, length).triu(1).bool()
    for n in range(2):
        here = f"layers.{n}."
        y = F.layer_norm(x, x.shape[-1:], w(here + "attention_norm.weight"), w(here + "attention_norm.bias"))
        q, k, v = (
            (y @ w(f"{here}attention.{p}_proj.weight").T + w(f"{here}attention.{p}_proj.bias"))
            .view(rows, length, heads, -1)
            .transpose(1, 2)
            for p in "qkv"
        )
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(future, -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, -1)
        x = x + y @ w(here + "attention.o_proj.weight").T + w(here + "attention.o_proj.bias")
        y = F.layer_norm(x, x.shape[-1:], w(here + "feed_forward_norm.weight"), w(here + "feed_forward_norm.bias"))
        y = F.gelu(y @ w(here + "feed_forward.up_proj.weight").T + w(here + "feed_forward.up_proj.bias"))
        x = x + y @ w(here + "feed_forward.down_proj.weight").T + w(here + "feed_forward.down_proj.bias")
    x = F.layer_norm(x, x.shape[-1:], w("final_norm.weight"), w("final_norm.bias"))
    return x @ w("token_embedding.weight").T


def test_it_is_gpt2_by_hand(build, ids):
    model = build(bias=True)
    with torch.no_grad():
        for param in model.parameters():
            param += 0.1 * torch.randn_like(param)
        torch.testing.assert_close(model(ids), by_hand(model.state_dict(), ids, 2), rtol=1e-4, atol=1e-5)


def test_parameter_names_are_the_vocabulary(build):
    names = set(build(bias=True, feed_forward="glu").state_dict())
    layer = {f"attention.{p}_proj.{kind}" for p in "qkvo" for kind in ("weight", "bias")}
    layer |= {f"feed_forward.{p}_proj.{kind}" for p in ("gate", "up", "down") for kind in ("weight", "bias")}
    layer |= {f"{norm}.{kind}" for norm in ("attention_norm", "feed_forward_norm") for kind in ("weight", "bias")}
    ends = {"token_embedding.weight", "position.weight", "final_norm.weight", "final_norm.bias", "lm_head.weight"}
    assert names == ends | {f"layers.{n}.{name}" for n in range(2) for name in layer}


@pytest.mark.parametrize("tie", [True, False])
def test_the_head_is_tied_if_asked(build, tie):
    model = build(tie_embeddings=tie)
    assert (model.lm_head.weight is model.token_embedding.weight) == tie
    assert model.num_params() - build(tie_embeddings=True).num_params() == (0 if tie else 13 * 8)


def test_dropout_is_on_in_training_alone(build, ids):
    model = build(dropout=0.3)
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))
    plain = build().train()
    assert torch.equal(plain(ids), plain(ids))


def test_a_hybrid_stack_repeats_its_pattern(build):
    blocks = {
        "near": {"attention": {"type": "local", "n_heads": 2, "window": 3}},
        "far": {"feed_forward": {"type": "moe", "n_experts": 2}},
    }
    model = build(n_layers=5, blocks=blocks, pattern=["near", "near", "far"])
    assert [layer.attention.config.type for layer in model.layers] == ["local", "local", "softmax", "local", "local"]
    assert [layer.feed_forward.config.type for layer in model.layers] == ["mlp", "mlp", "moe", "mlp", "mlp"]
    assert model.config.num_params() == model.num_params()


def test_the_same_seed_builds_the_same_model(build):
    assert all(torch.equal(a, b) for a, b in zip(build().parameters(), build().parameters(), strict=True))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: m(x[0]), r"ids have shape \(9,\), and must be \(batch, length\); use ids\[None\] for one row"),
        (lambda m, x: m(x[:, :0]), r"ids have shape \(2, 0\); give at least one token"),
        (lambda m, x: m(x + 20), "but the vocabulary has 13 tokens"),
        (lambda m, x: m(x - 20), "but the vocabulary has 13 tokens"),
        (lambda m, x: m(x.float()), "ids are torch.float32, and must be whole numbers"),
        (lambda m, x: m(x, padding_mask=x > 0, segments=x), "padding_mask and segments were both given"),
        (lambda m, x: m(x, padding_mask=x[:1] > 0), r"padding_mask has shape \(1, 9\) and ids \(2, 9\); they must be"),
        (lambda m, x: m(x, segments=x[:, :4]), r"segments has shape \(2, 4\) and ids \(2, 9\)"),
        (lambda m, x: m(x, states=m.init_states(3, 9)), "states were made for 3 rows and ids have 2"),
        (lambda m, x: m(torch.cat((x, x), 1)), "18 tokens were given, but learned positions end at max_seq_len 10"),
    ],
)
def test_calls_that_make_no_sense_are_refused(build, ids, call, words):
    with pytest.raises(gw.GptwrightError, match=words):
        call(build(), ids)


def test_positions_that_end_are_refused_wherever_they_end(build, ids):
    model = build()
    states = model.init_states(2, 9)
    model(ids, states=states)
    model(ids[:, :1], states=states)
    with pytest.raises(gw.GptwrightError, match="learned positions end at max_seq_len 10; shorten the input"):
        model(ids[:, :1], states=states)
    long = torch.cat((ids, ids), 1)
    halves = torch.tensor([[1] * 9 + [2] * 9] * 2)
    assert model(long, segments=halves).shape == (2, 18, 13)  # each document has its own positions
    mask = torch.tensor([[False] * 9 + [True] * 9] * 2)
    assert model(long, padding_mask=mask).shape == (2, 18, 13)
    assert build(position="rotary")(torch.cat((long, long), 1)).shape == (2, 36, 13)


def test_ids_of_other_integer_types_are_fine(build, ids):
    model = build()
    assert torch.equal(model(ids.int()), model(ids))


def test_rows_of_nothing_but_padding_are_finite(build, ids):
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1] = False
    for attention in ("softmax", "linear", "local"):
        settings = {"type": attention, "n_heads": 2, **({"window": 3} if attention == "local" else {})}
        model = build(attention=settings)
        out = model(ids, padding_mask=mask)
        out.sum().backward()
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        torch.testing.assert_close(out[:1], model(ids[:1]))
