"""Strided scores against a loop that reads every token's context anew."""

import math

import numpy as np
import pytest
import torch

import gptwright as gw
from gptwright.evaluate.scoring import scoring
from gptwright.evaluate.strided import read_text, score_text, token_nats
from gptwright.tokenizer.kinds.byte import Byte

CONTEXT = 12
TEXT = "Ein Café, 日本語 and a dog that barked at the moon."


def drawn(*, with_eot: bool, **config) -> gw.GPT:
    torch.manual_seed(0)
    settings = {"attention": {"type": "softmax", "n_heads": 2}, "position": "learned", **config}
    shape = {"vocab_size": 257, "d_model": 16, "n_layers": 2, "max_seq_len": CONTEXT}
    model = gw.GPT(gw.ModelConfig.from_dict({**shape, **settings})).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.tokenizer = Byte.train(Byte.Config(), [], with_eot=with_eot)
    return model


def by_hand(model, ids, first, stride):
    """Return nats of the tokens from place ``first`` on: each after what its window has before it."""
    found = []
    for place in range(first, len(ids)):
        reached = place - first - (CONTEXT - first + 1)  # tokens beyond those of the first window
        end = place if reached < 0 else min(len(ids) - 1, place + stride - 1 - reached % stride)
        start = max(0, end - CONTEXT)
        if reached < 0:
            start = 0
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:place]]))[0, -1]
        found.append(-float(logits.double().log_softmax(-1)[ids[place]]))
    return np.array(found)


@pytest.mark.parametrize("with_eot", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 5, CONTEXT])
def test_it_equals_a_loop_over_tokens(stride, with_eot):
    model = drawn(with_eot=with_eot)
    ids = [*([256] if with_eot else []), *TEXT.encode()]
    expected = by_hand(model, ids, 1, stride)
    read = read_text(model.tokenizer, TEXT)
    with scoring(model):
        found = token_nats(model, [read], CONTEXT, stride)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    score = score_text(model, TEXT, stride=stride)
    assert score.tokens == len(TEXT.encode()) - (0 if with_eot else 1)
    assert score.loss == pytest.approx(expected.mean(), rel=1e-6)
    assert score.bits_per_byte == pytest.approx(expected.sum() / math.log(2) / score.tokens, rel=1e-6)


def test_a_stride_of_one_recomputes_every_token():
    model = drawn(with_eot=True, position="rotary", attention={"type": "local", "n_heads": 2, "window": 5})
    ids = [256, *TEXT.encode()]
    nats = 0.0
    for place in range(1, len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[max(0, place - CONTEXT) : place]]))[0, -1]
        nats -= float(logits.double().log_softmax(-1)[ids[place]])
    assert score_text(model, TEXT, stride=1).loss == pytest.approx(nats / len(TEXT.encode()), rel=1e-6)


def test_texts_together_are_as_texts_alone():
    model = drawn(with_eot=True)
    reads = [read_text(model.tokenizer, text) for text in (TEXT, "a", TEXT[:20], TEXT * 3)]
    with scoring(model):
        together = token_nats(model, reads, CONTEXT, 4)
        for read, found in zip(reads, together, strict=True):
            np.testing.assert_allclose(found, token_nats(model, [read], CONTEXT, 4)[0], atol=1e-5)
            assert len(found) == len(read.ids)


def test_a_smaller_context_and_bf16_are_possible():
    model = drawn(with_eot=True)
    whole, short = score_text(model, TEXT, stride=1), score_text(model, TEXT, stride=1, context=2)
    assert whole.loss != short.loss
    rounded = score_text(model, TEXT, stride=1, precision="bf16")
    assert rounded.loss == pytest.approx(whole.loss, rel=0.02)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"stride": 13}, "stride is 13 and context 12: tokens between two windows would never be predicted"),
        ({"stride": 5, "context": 4}, "stride is 5 and context 4"),
        ({"stride": 0}, "context is 12 and stride 0, and both must be at least 1 token"),
        ({"context": 0}, "context is 0 and stride 1"),
        ({"context": 13}, "context is 13 tokens, and learned positions end at 12; ask for at most 12"),
        ({"precision": "fp8"}, "precision 'fp8' is unknown"),
    ],
)
def test_settings_without_a_meaning_are_refused(how, sentence):
    with pytest.raises(gw.ConfigError, match=sentence):
        score_text(drawn(with_eot=True), TEXT, **how)


def test_a_text_without_a_token_to_predict_is_refused():
    with pytest.raises(gw.DataError, match="the text is empty: there is nothing to score"):
        score_text(drawn(with_eot=True), "")
    with pytest.raises(gw.DataError, match="the text is a single token, and nothing stands before it"):
        score_text(drawn(with_eot=False), "a")
    assert score_text(drawn(with_eot=True), "a").tokens == 1
    model = drawn(with_eot=True)
    model.tokenizer = None
    with pytest.raises(gw.GptwrightError, match="this model has no tokenizer"):
        score_text(model, TEXT)


def test_positions_without_an_end_take_a_longer_context():
    model = drawn(with_eot=True, position="rotary")
    assert score_text(model, TEXT, context=40).tokens == len(TEXT.encode())
