"""Strings in, strings out: many prompts and samples, stop strings, streams, and what is refused."""

import math
import re

import pytest
import torch

import gptwright as gw

PROMPTS = ["the ", "a cat sat", "dog"]
REFUSED = {
    "unknown setting": ({"temprature": 1}, "there is no sampling setting 'temprature'; did you mean 'temperature'?"),
    "wrong kind": ({"top_k": "many"}, "the sampling setting top_k is 'many': input should be a valid integer"),
    "no samples": ({"n": 0}, "n is 0 and must be at least 1"),
    "overflow": ({"overflow": "wrap"}, "overflow is 'wrap' and must be 'refuse' or 'slide'"),
    "no rows": ({"rows": 0}, "rows is 0 and must be at least 1"),
    "two constraints": ({"regex": "a", "json_schema": {}}, "regex and json_schema both say what may be written"),
    "speculate": ({"speculate": "wildly"}, "speculate is 'wildly' and must be 'prompt' or a number of tokens above 0"),
    "speculate a number": ({"speculate": 0}, "speculate is 0 and must be 'prompt' or a number of tokens above 0"),
    "length without beams": (
        {"length_penalty": 2.0},
        "length_penalty is 2.0 and belongs to beam search; give beams too",
    ),
    "beams that slide": ({"beams": 2, "overflow": "slide"}, "knows nothing of overflow; leave one or the other out"),
    "beams that draw": ({"beams": 2, "temperature": 1.0}, "knows nothing of temperature; leave one or the other out"),
    "beams that stop": ({"beams": 2, "stop": "."}, "knows nothing of stop; leave one or the other out"),
    "beams that obey": ({"beams": 2, "regex": "a"}, "knows nothing of regex; leave one or the other out"),
}


def test_prompts_alone_and_together_are_the_same(model):
    how = {"max_new_tokens": 7, "seed": 3}
    alone = [gw.generate(model, prompt, **how) for prompt in PROMPTS]
    assert gw.generate(model, PROMPTS, **how) == alone
    assert gw.generate(model, PROMPTS[::-1], rows=2, **how) == alone[::-1]
    assert [
        text.startswith(prompt) and len(text) == len(prompt) + 7 for text, prompt in zip(alone, PROMPTS, strict=True)
    ]


def test_samples_differ_and_are_the_same_in_any_number(model):
    three = gw.generate(model, "the ", n=3, max_new_tokens=12, seed=5)
    assert len(set(three)) == 3
    assert gw.generate(model, "the ", n=2, max_new_tokens=12, seed=5) == three[:2]
    assert gw.generate(model, "the ", max_new_tokens=12, seed=5) == three[0]
    assert gw.generate(model, ["dog", "the "], n=3, max_new_tokens=12, seed=5)[1] == three


def test_no_prompts_are_no_texts(model):
    assert gw.generate(model, []) == []


def test_details_say_what_happened(model):
    found = gw.generate(model, "the ", max_new_tokens=6, seed=1, details=True)
    assert isinstance(found, gw.Completion)
    assert (found.prompt, found.full) == ("the ", "the " + found.text)
    assert found.text == model.tokenizer.decode(found.ids)
    assert (len(found.ids), found.prompt_tokens, found.finish_reason, found.tokens) == (6, 4, "length", None)
    assert found.seconds > 0
    assert found.full == gw.generate(model, "the ", max_new_tokens=6, seed=1)


def test_log_probabilities_come_with_words(model):
    found = gw.generate(model, "the ", max_new_tokens=6, seed=1, details=True, logprobs=3)
    assert [token.id for token in found.tokens] == found.ids
    assert "".join(token.text for token in found.tokens) == found.text
    for token in found.tokens:
        assert len(token.top) == 3
        assert [each.logprob for each in token.top] == sorted((each.logprob for each in token.top), reverse=True)
        assert sum(math.exp(each.logprob) for each in token.top) <= 1 + 1e-5
        assert token.logprob <= token.top[0].logprob
    assert found.tokens[0].to_dict()["top"][0]["text"] == found.tokens[0].top[0].text


def test_no_new_tokens_have_no_log_probabilities(model):
    assert gw.generate(model, "the ", max_new_tokens=0, logprobs=2, details=True).tokens == []


@pytest.mark.parametrize("tokenizer", ["char", "byte", {"type": "bpe", "vocab_size": 300}])
def test_a_stop_string_ends_the_text_wherever_tokens_end(load, tokenizer):
    model = load({"data.tokenizer": tokenizer, "model.position": "rotary"})
    whole = gw.generate(model, "the ", max_new_tokens=40, seed=2, details=True).text
    for stop in (whole[9:12], whole[20:21], whole[5:9]):
        found = gw.generate(model, "the ", max_new_tokens=40, seed=2, stop=["no such words", stop], details=True)
        assert found.text == whole[: whole.index(stop)]
        assert found.finish_reason == "stop"
        pieces = list(gw.stream(model, "the ", max_new_tokens=40, seed=2, stop=stop))
        assert "".join(pieces) == found.text
    assert len(found.ids) < 40


def test_a_stop_string_in_the_prompt_stops_nothing(model):
    assert len(gw.generate(model, "the ", max_new_tokens=2, seed=1, stop="the ")) == 6


def test_what_only_began_a_stop_string_is_part_of_the_text(model):
    whole = gw.generate(model, "the ", max_new_tokens=8, seed=1)
    assert gw.generate(model, "the ", max_new_tokens=8, seed=1, stop=whole[-3:] + "§") == whole


def test_stop_strings_count_from_the_shortest_length_on(model):
    whole = gw.generate(model, "the ", max_new_tokens=8, seed=1, details=True).text
    found = gw.generate(model, "the ", max_new_tokens=8, min_new_tokens=4, seed=1, stop=list(set(whole)), details=True)
    assert found.text == whole[:4]
    assert len(found.ids) == 5


def test_a_stop_id_ends_the_text_and_is_no_part_of_it(model):
    whole = gw.generate(model, "the ", max_new_tokens=8, seed=1, details=True)
    last = whole.ids[5]
    found = gw.generate(model, "the ", max_new_tokens=8, seed=1, stop_ids=last, details=True)
    at = whole.ids.index(last)
    assert (found.text, found.ids, found.finish_reason) == (whole.text[:at], whole.ids[: at + 1], "stop")


def test_beams_find_what_is_at_least_as_likely_as_greedy(model):
    greedy = gw.generate(model, "the ", max_new_tokens=6, temperature=0, details=True)
    one, two = gw.generate(model, "the ", max_new_tokens=6, beams=4, n=2, details=True)
    assert one.text != two.text
    assert (one.prompt, one.prompt_tokens, len(one.ids), one.tokens) == ("the ", 4, 6, None)
    assert one.text == model.tokenizer.decode(one.ids)
    assert gw.generate(model, "the ", max_new_tokens=6, beams=1) == greedy.full
    assert gw.generate(model, ["the ", "a"], max_new_tokens=6, beams=4)[0] == one.full
    assert len(gw.generate(model, "the ", beams=2)) == 16


def test_a_constraint_holds_for_every_text(model):
    pytest.importorskip("llguidance")
    how = {"max_new_tokens": 12, "regex": "(cat|dog)( ran)+[.]", "n": 3, "seed": 1}
    for text in [text for group in gw.generate(model, ["the ", "a"], **how) for text in group]:
        assert re.fullmatch(r"(the |a)(cat|dog)( ran)*( r?a?n?)?[.]?", text)
    schema = {"type": "object", "properties": {"a": {"enum": ["ran", "sat"]}}, "required": ["a"]}
    with pytest.raises(gw.GptwrightError):  # this small alphabet cannot say a brace
        gw.generate(model, "the ", json_schema=schema)


@pytest.mark.parametrize("speculate", ["prompt", 3])
def test_guessing_changes_no_text(load, speculate):
    model = load({"model.position": "rotary"})
    how = {"max_new_tokens": 40, "seed": 2, "logprobs": 0, "details": True}
    plain, guessed = gw.generate(model, "the cat ", **how), gw.generate(model, "the cat ", **how, speculate=speculate)
    assert (guessed.text, guessed.ids) == (plain.text, plain.ids)
    draft = load({"model.position": "rotary", "model.n_layers": 1})
    assert gw.generate(model, "the cat ", **how, draft=draft).ids == plain.ids
    assert "".join(gw.stream(model, "the cat ", max_new_tokens=40, seed=2, speculate=speculate)) == plain.text


def test_who_guesses_reads_the_same_tokens(load, model):
    other = load({"data.tokenizer": "byte"})
    with pytest.raises(gw.GptwrightError, match="the draft has a vocabulary of"):
        gw.generate(model, "the ", max_new_tokens=2, draft=other)
    with pytest.raises(gw.GptwrightError, match="give one of the two"):
        gw.generate(model, "the ", max_new_tokens=2, draft=model, speculate="prompt")


def test_an_abandoned_stream_leaves_the_model_as_it_was(load):
    model = load({"model.dropout": 0.5})
    model.train()
    try:
        pieces = gw.stream(model, "the ", max_new_tokens=12, seed=0)
        first = next(pieces)
        assert not model.training
        pieces.close()
        assert model.training
        assert gw.generate(model, "the ", max_new_tokens=12, seed=0)[4:].startswith(first)
    finally:
        model.eval()


def test_errors_of_a_stream_come_before_its_first_piece(model):
    with pytest.raises(gw.GptwrightError, match="has 26 tokens"):
        gw.stream(model, "the cat sat on the mat and")
    with pytest.raises(gw.GptwrightError, match="beam search knows its text only at the end, and cannot stream"):
        gw.stream(model, "the ", beams=2)
    with pytest.raises(gw.GptwrightError, match="stream continues one prompt, a string, not list"):
        gw.stream(model, ["the "])


def test_without_a_number_of_tokens_the_room_is_filled(model):
    assert len(gw.generate(model, "the ", seed=0)) == 16
    assert len(gw.generate(model, ["the ", "a"], seed=0, overflow="slide")[1]) == 201


def test_a_prompt_beyond_the_context_goes_where_positions_do_not_end(load):
    model = load({"model.position": "rotary"})
    prompt = "the cat sat on the mat and"
    with pytest.raises(gw.GptwrightError, match="or go beyond it with overflow slide"):
        gw.generate(model, prompt, max_new_tokens=2)
    assert len(gw.generate(model, prompt, max_new_tokens=2, overflow="slide")) == len(prompt) + 2


def test_one_mistake_among_many_prompts_is_found_before_anything_is_written(model):
    with pytest.raises(gw.GptwrightError, match="a prompt is 3, but must be a string"):
        gw.generate(model, ["the ", 3])
    with pytest.raises(gw.DataError, match="Q"):
        gw.generate(model, ["the ", "Q"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_refused(model, name):
    how, words = REFUSED[name]
    with pytest.raises(gw.GptwrightError) as found:
        gw.generate(model, "the ", **how)
    assert words in str(found.value)


def test_a_text_that_cannot_go_on_says_why(model):
    broken = model.twin(model.dtype)
    with torch.no_grad():
        broken.final_norm.weight.fill_(float("nan"))
    for write in (lambda: gw.generate(broken, ["the ", "a "]), lambda: list(gw.stream(broken, "the "))):
        with pytest.raises(gw.GptwrightError, match="no token can be chosen from the model's logits"):
            write()
