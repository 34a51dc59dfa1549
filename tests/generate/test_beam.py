"""Beam search against transformers' on the same weights, and against looking at everything."""

import itertools
import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import gptwright as gw
from gptwright.errors import GptwrightError
from gptwright.generate.beam import Beam, _rows, beam_search

VOCAB = 40


@pytest.fixture(scope="module")
def twins():
    """Return a tiny GPT-2 of transformers and ours with its weights."""
    torch.manual_seed(0)
    names = {"vocab_size": VOCAB, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 2}
    theirs = GPT2LMHeadModel(GPT2Config(**names, bos_token_id=0, eos_token_id=None, initializer_range=0.3)).eval()
    ours = model(bias=True, feed_forward={"type": "mlp", "d_ff": 128, "activation": "gelu_tanh"})
    ours.load_state_dict(renamed(theirs.state_dict()))
    return theirs, ours.eval()


def model(vocab_size=VOCAB, **changes):
    parts = {"norm": "layer_norm", "attention": {"type": "softmax", "n_heads": 2}, "position": "learned"}
    sizes = {"vocab_size": vocab_size, "d_model": 32, "n_layers": 2, "max_seq_len": 40}
    torch.manual_seed(1)
    return gw.GPT(gw.ModelConfig.from_dict({**sizes, "feed_forward": {"type": "mlp", "d_ff": 64}, **parts, **changes}))


def renamed(state):
    """Return GPT-2's weights under our names; its matrices are stored the other way around."""
    found = {"token_embedding": state["transformer.wte.weight"], "position": state["transformer.wpe.weight"]}
    found = {f"{name}.weight": value for name, value in found.items()} | {"lm_head.weight": state["lm_head.weight"]}
    places = {
        "ln_1": "attention_norm",
        "ln_2": "feed_forward_norm",
        "attn.c_proj": "attention.o_proj",
        "mlp.c_fc": "feed_forward.up_proj",
        "mlp.c_proj": "feed_forward.down_proj",
    }
    for name, value in state.items():
        *path, kind = name.removeprefix("transformer.").split(".")
        value = value.T if value.ndim == 2 else value
        if path == ["ln_f"]:
            found[f"final_norm.{kind}"] = value
        elif path[0] == "h" and path[2:] == ["attn", "c_attn"]:
            for part, each in zip("qkv", value.chunk(3), strict=True):
                found[f"layers.{path[1]}.attention.{part}_proj.{kind}"] = each
        elif path[0] == "h":
            found[f"layers.{path[1]}.{places['.'.join(path[2:])]}.{kind}"] = value
    return found


def test_the_twins_are_twins(twins):
    theirs, ours = twins
    ids = torch.randint(VOCAB, (2, 30), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prompt", [[3, 1, 4], [7]], ids=len)
@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -0.5, 2.0])
@pytest.mark.parametrize("ends", [(), (17,), (5, 17, 29)], ids=len)
def test_ids_and_scores_are_those_of_transformers(twins, prompt, beams, length_penalty, ends):
    theirs, ours = twins
    expected = theirs.generate(
        torch.tensor([prompt]),
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        max_new_tokens=12,
        length_penalty=length_penalty,
        eos_token_id=list(ends) or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = beam_search(
        ours, prompt, beams=beams, max_new_tokens=12, length_penalty=length_penalty, end_ids=ends, n=beams
    )
    rows = [row[len(prompt) :] for row in expected.sequences.tolist()]
    for number, (row, beam) in enumerate(zip(rows, found, strict=True)):
        ended = next((place for place, token in enumerate(row) if token in ends), None)
        assert list(beam.ids) == row[:ended]
        assert beam.finish_reason == ("length" if ended is None else "stop")
        if beams > 1:  # with one, transformers takes its greedy path, which has no score
            assert beam.score == pytest.approx(float(expected.sequences_scores[number]), rel=1e-4)


def test_some_of_these_continuations_end_and_some_are_cut(twins):
    how = {"beams": 5, "max_new_tokens": 12, "n": 5}
    found = [beam for ends in ((17,), (5, 17, 29)) for beam in beam_search(twins[1], [7], end_ids=ends, **how)]
    assert {beam.finish_reason for beam in found} == {"stop", "length"}
    assert len({len(beam.ids) for beam in found}) > 2


@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_scores_are_those_of_the_whole_text_and_enough_beams_find_the_best(attention):
    one = model(vocab_size=4, attention={"type": attention, "n_heads": 2}, position="rotary").eval()
    for parameter in one.parameters():
        parameter.data.mul_(4)
    for length in (2, 5):
        texts = list(itertools.product(range(4), repeat=length))
        ids = torch.tensor([[2, 1, *text] for text in texts])
        with torch.no_grad():
            steps = one(ids)[:, 1:-1].double().log_softmax(-1).gather(-1, ids[:, 2:, None])
        totals = {text: float(total) for text, total in zip(texts, steps.sum((1, 2)), strict=True)}
        found = beam_search(one, [2, 1], beams=4, max_new_tokens=length, length_penalty=0, n=4)
        assert [beam.score for beam in found] == pytest.approx([totals[beam.ids] for beam in found], abs=1e-4)
        if length == 2:  # four beams of four tokens have seen every text
            assert [beam.ids for beam in found] == sorted(totals, key=lambda text: -totals[text])[:4]


def test_fewer_are_the_best_of_those(twins):
    every = beam_search(twins[1], [3], beams=4, max_new_tokens=6, n=4)
    assert beam_search(twins[1], [3], beams=4, max_new_tokens=6, n=2) == every[:2]
    assert beam_search(twins[1], [3], beams=4, max_new_tokens=6) == every[:1]


def test_a_tiny_vocabulary_may_run_out_of_beginnings():
    one = model(vocab_size=2).eval()
    found = beam_search(one, [0], beams=2, max_new_tokens=5, end_ids=(0, 1), n=2)
    assert {beam.ids for beam in found} == {()}
    found = beam_search(one, [0], beams=2, max_new_tokens=5, end_ids=(1,), n=2)
    assert all(set(beam.ids) <= {0} for beam in found)


def test_a_row_is_written_over_only_where_nobody_needs_it():
    for count in (1, 2, 3, 4):
        for parents in itertools.product(range(4), repeat=count):
            rows = _rows(list(parents))
            assert sorted(rows) == list(range(count))
            written = {row for row, parent in zip(rows, parents, strict=True) if row != parent}
            assert not written & set(parents)


def test_no_new_tokens_are_none(twins):
    assert beam_search(twins[1], [3], beams=2, max_new_tokens=0, n=2) == [Beam((), 0.0, "length")] * 2


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"beams": 0}, "beams is 0 and must be at least 1; leave it out to draw tokens"),
        ({"beams": 41}, "beams is 41 and the vocabulary has 40 tokens"),
        ({"beams": 2, "n": 3}, "n is 3 and beams 2: n of the beams are given back; use 1 to 2"),
        ({"beams": 2, "n": 0}, "n is 0 and beams 2"),
        ({"beams": 2, "max_new_tokens": 40}, "learned positions end at max_seq_len 40"),
        ({"beams": 2, "ids": []}, "the prompt has no token"),
    ],
    ids=str,
)
def test_what_has_no_meaning_is_refused(twins, how, sentence):
    with pytest.raises(GptwrightError) as error:
        beam_search(twins[1], **{"ids": [1], "max_new_tokens": 3, **how})
    assert sentence in str(error.value)


def test_damaged_weights_are_refused():
    one = model()
    one.final_norm.weight.data.fill_(math.nan)
    with pytest.raises(GptwrightError, match="no token can be chosen from the model's logits"):
        beam_search(one, [1], beams=2, max_new_tokens=2)
