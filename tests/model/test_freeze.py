"""Which parameters train, by name."""

import pytest
import torch

import gptwright as gw
from gptwright.model.freeze import choose_trained, freeze, trainable_table, unfreeze
from gptwright.nn.patterns import matches


def frozen(model) -> set[str]:
    return {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}


def names(model, *words: str) -> set[str]:
    """Names that hold one of ``words`` as whole words."""
    found = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return {name for name in found if any(f".{word}." in f".{name}." for word in words)}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "lm_head.weight", True),
        ("layers.0.*", "layers.0.attention.q_proj.weight", True),
        ("layers.0", "layers.0.attention.q_proj.weight", True),
        ("layers.1", "layers.10.attention.q_proj.weight", False),
        ("layers.[01]", "layers.1.attention.q_proj.weight", True),
        ("layers.?", "layers.10.attention.q_proj.weight", False),
        ("attention", "layers.3.attention.q_proj.weight", True),
        ("attention", "layers.3.attention_norm.weight", False),
        ("*.attention.*", "layers.3.attention.q_proj.weight", True),
        ("attention.q_proj", "layers.3.attention.q_proj.weight", True),
        ("q_proj", "layers.3.attention.q_proj.weight", True),
        ("q_proj.bias", "layers.3.attention.q_proj.weight", False),
        ("*norm*", "layers.3.attention_norm.weight", True),
        ("norm", "layers.3.attention_norm.weight", False),
        ("bias", "layers.3.attention.q_proj.bias", True),
        ("lm_head.weight", "lm_head.weight", True),
        ("experts.1", "layers.3.feed_forward.experts.1.up_proj.weight", True),
        ("1", "layers.1.feed_forward.experts.1.up_proj.weight", False),
    ],
)
def test_what_a_pattern_names(pattern, name, expected):
    assert matches(pattern, name) is expected


def test_freezing_and_unfreezing_by_part(build):
    model = build(tie_embeddings=False)
    freeze(model, "layers.0", "*norm*")
    norms = {name for name, _ in model.named_parameters() if "norm" in name}
    first = {name for name, _ in model.named_parameters() if name.startswith("layers.0.")}
    assert frozen(model) == norms | first
    unfreeze(model, "attention")
    assert frozen(model) == (norms | first) - names(model, "attention")
    unfreeze(model, "*")
    assert not frozen(model)


def test_frozen_parameters_get_no_gradient_and_the_others_the_same(build, ids):
    whole, part = build(tie_embeddings=False), build(tie_embeddings=False)
    freeze(part, "token_embedding", "layers.0.attention", "lm_head")
    for model in (whole, part):
        gw.loss(model(ids)[:, :-1], ids[:, 1:]).backward()
    for (name, a), (_, b) in zip(whole.named_parameters(), part.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is None if name in frozen(part) else torch.equal(a.grad, b.grad), name


def test_a_tied_table_is_frozen_under_both_of_its_names_and_said_so(build):
    for name in ("lm_head", "token_embedding"):
        model = build(tie_embeddings=True)
        table = freeze(model, name)
        assert frozen(model) == {"token_embedding.weight", "lm_head.weight"}
        assert table.groups[0].name == "token_embedding = lm_head (tied)"
        assert table.frozen == 13 * 8
        assert unfreeze(model, name).frozen == 0


def test_the_table_joins_layers_that_agree(build):
    model = build(n_layers=4, position="rotary")
    table = freeze(model, "layers.[013].attention", "layers.2.feed_forward.up_proj")
    rows = {group.name: (group.params, group.trains) for group in table.groups}
    assert rows == {
        "token_embedding = lm_head (tied)": (104, True),
        "layers.0-3.attention_norm": (32, True),
        "layers.0-1,3.attention": (3 * 256, False),
        "layers.2.attention": (256, True),
        "layers.0-3.feed_forward_norm": (32, True),
        "layers.0-1,3.feed_forward": (3 * 512, True),
        "layers.2.feed_forward.up_proj.weight": (256, False),
        "layers.2.feed_forward.down_proj.weight": (256, True),
        "final_norm": (8, True),
    }
    assert table.params == model.num_params() == table.trained + table.frozen
    assert table.frozen == 3 * 256 + 256


def test_the_printed_table_is_aligned_and_ends_in_totals(build):
    model = build(n_layers=4, position="rotary", tie_embeddings=False)
    freeze(model, "attention")
    lines = str(trainable_table(model)).splitlines()
    assert "layers.0-3.attention          1,024  frozen" in lines
    assert "token_embedding                 104  trains" in lines
    assert lines[-1] == "total                         3,352  2,328 train, 1,024 are frozen"
    assert repr(trainable_table(model)) == str(trainable_table(model))


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod"])
def test_a_wrapped_model_has_the_same_names(build, wrapper):
    outer = torch.nn.Module()
    outer.add_module(wrapper, build())
    assert freeze(outer, "layers.0.*", "token_embedding").frozen == freeze(build(), "layers.0", "lm_head").frozen > 0
    assert "layers.0.attention" in {group.name for group in trainable_table(outer).groups}


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("atention", "; did you mean 'attention'?"),
        ("*.atention.*", "; did you mean '*.attention.*'?"),
        ("layer.1", "; did you mean 'layers.1'?"),
        ("layers.7", "; did you mean 'layers.1'?"),
        ("0", "; did you mean 'layers.0'?"),
        ("xyzzy", ""),
    ],
)
@pytest.mark.parametrize("change", [freeze, unfreeze])
def test_a_pattern_that_names_nothing_is_refused_and_nothing_is_changed(build, change, pattern, hint):
    model = build()
    freeze(model, "layers.0")
    before = frozen(model)
    with pytest.raises(gw.ConfigError) as error:
        change(model, "layers.1", pattern)
    assert str(error.value) == (
        f"{change.__name__} names '{pattern}', which matches no parameter; names look like "
        f"'layers.0.attention.q_proj.weight'{hint}"
    )
    assert frozen(model) == before


def test_unfreezing_comes_after_freezing(build):
    model = build(tie_embeddings=False)
    choose_trained(model, ["*"], ["layers.1", "lm_head"])
    everything = {name for name, _ in model.named_parameters()}
    assert everything - frozen(model) == {n for n in everything if n.startswith(("layers.1.", "lm_head."))}


def test_nothing_left_to_train_is_one_sentence(build):
    with pytest.raises(gw.ConfigError) as error:
        choose_trained(build(position="rotary"), ["*"], [])
    assert str(error.value) == (
        "train.freeze ['*'] leaves none of the 1,680 parameters to train; name fewer, or give some back with "
        "train.unfreeze, as in [lm_head]"
    )
