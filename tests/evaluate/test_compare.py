"""Two models on the same documents: the figures by hand, the words, and what cannot be said."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import gptwright as gw
from gptwright.evaluate.compare import compare_texts
from gptwright.evaluate.compare_tasks import compare_tasks
from gptwright.evaluate.comparison import Comparison
from gptwright.evaluate.documents import documents_of, other_data
from gptwright.evaluate.interval import Difference
from gptwright.evaluate.strided import score_text
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char

from .. import tiny

TEXTS = [tiny.text(words, seed=words) for words in range(5, 29)]


def drawn(tokenizer, seed=0, scale=0.3) -> gw.GPT:
    torch.manual_seed(seed)
    shape = {"vocab_size": tokenizer.vocab_size, "d_model": 16, "n_layers": 2, "max_seq_len": 16}
    parts = {"attention": {"type": "softmax", "n_heads": 2}, "position": "rotary"}
    model = gw.GPT(gw.ModelConfig.from_dict({**shape, **parts})).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=scale)
    model.tokenizer = tokenizer
    return model


BYTE = Byte.train(Byte.Config(), [], with_eot=True)
CHAR = Char.train(Char.Config(), ["".join(TEXTS)], with_eot=False)


def test_figures_are_those_of_each_document():
    first, second = drawn(BYTE), drawn(CHAR, seed=1)
    found = compare_texts(first, second, TEXTS, names=("one", "two"), stride=3)
    values = []
    for model in (first, second):
        scores = [score_text(model, text, stride=3) for text in TEXTS]
        nats = sum(score.loss * score.tokens for score in scores)
        size = sum(len(text.encode()) for text in TEXTS) - (len(TEXTS) if model is second else 0)
        values.append(nats / math.log(2) / size)
    assert found.values == pytest.approx(values, rel=1e-6)
    assert found.difference.value == pytest.approx(values[0] - values[1], rel=1e-5)
    assert found.difference.low < found.difference.value < found.difference.high
    assert found.difference.documents == len(TEXTS)
    assert found.notes == (
        "one tokenizer has a token that begins a text; the other has none, so that the first token of each document "
        "is not counted for it",
    )


def test_better_is_who_needs_fewer_bits():
    sharp, flat = drawn(BYTE, scale=0.5), drawn(BYTE, scale=0.01)  # what is drawn at random errs, and surely
    found = compare_texts(sharp, flat, TEXTS, names=("A", "B"))
    assert found.difference.low > 0
    assert found.better == "B"
    assert found.sentence.startswith("A needs ")
    assert " more bits a byte than B (95 % interval " in found.sentence
    assert found.sentence.endswith(", 24 documents): B is better")
    turned = compare_texts(flat, sharp, TEXTS, names=("B", "A"))
    assert turned.better == "B"
    assert turned.difference.value == pytest.approx(-found.difference.value)


def test_a_model_is_not_better_than_itself():
    model = drawn(BYTE)
    found = compare_texts(model, model, TEXTS)
    assert (found.better, found.difference.value) == (None, 0)
    assert found.sentence == (
        "A and B need the same bits a byte (95 % interval 0.000 to 0.000, 24 documents): undecided"
    )


def test_a_single_text_is_cut_into_blocks():
    first, second, text = drawn(BYTE), drawn(CHAR, seed=1), "".join(TEXTS) * 5
    found = compare_texts(first, second, [text], stride=8)
    assert (found.documents, found.difference.documents) == ("blocks of one text", len(text.encode()) // 500)
    assert found.values == pytest.approx(
        [score_text(m, text, stride=8).bits_per_byte for m in (first, second)], rel=1e-6
    )
    assert found.difference.low < found.difference.value < found.difference.high


def test_few_documents_and_short_texts_have_no_interval():
    first, second = drawn(BYTE), drawn(BYTE, seed=1)
    found = compare_texts(first, second, TEXTS[:9])
    assert found.sentence.endswith("(9 documents, too few for an interval, which needs 10): undecided")
    assert found.to_dict()["interval"] is None
    assert compare_texts(first, second, TEXTS[:1]).sentence.endswith(
        "(1 document, too few for an interval, which needs 10): undecided"
    )


def test_documents_without_a_token_to_predict_are_left_out():
    found = compare_texts(drawn(BYTE), drawn(CHAR), [*TEXTS, "", "a"])
    assert found.difference.documents == len(TEXTS)
    assert "2 documents have no token to predict for one of the models and were left out" in found.notes
    with pytest.raises(gw.DataError, match="none of 2 documents has a token to predict for both models"):
        compare_texts(drawn(BYTE), drawn(CHAR), ["", "a"])
    with pytest.raises(gw.DataError, match="日"):
        compare_texts(drawn(BYTE), drawn(CHAR), [*TEXTS, "日本"])
    with pytest.raises(gw.ConfigError, match="stride is 17 and context 16"):
        compare_texts(drawn(BYTE), drawn(CHAR), TEXTS, stride=17)


def said(value, low, high, *, figure="bits_per_byte", higher=False, count=312, names=("A", "B")):
    return Comparison(names, figure, (1.0, 1.0), Difference(value, low, high, count), higher).sentence


FEWER, MORE = "A needs {} fewer bits a byte than B", "A needs {} more bits a byte than B"
ACC = {"figure": "pick acc", "higher": True}


@pytest.mark.parametrize(
    ("sentence", "how_much", "how_sure", "verdict"),
    [
        (said(-0.012, -0.02, -0.004), FEWER.format(0.012), "0.004 to 0.020, 312 documents", "A is better"),
        (said(0.012, 0.004, 0.02), MORE.format(0.012), "0.004 to 0.020, 312 documents", "B is better"),
        (said(-0.002, -0.008, 0.004), FEWER.format(0.002), "0.008 fewer to 0.004 more, 312 documents", "undecided"),
        (
            said(-2e-5, -3e-5, -1e-5, count=90000),
            FEWER.format("0.000020"),
            "0.000010 to 0.000030, 90,000 documents",
            "A is better",
        ),
        (
            said(0.031, -0.01, 0.072, **ACC),
            "pick acc of A is 0.031 higher than that of B",
            "0.010 lower to 0.072 higher, 312 documents",
            "undecided",
        ),
        (
            said(-0.5, -0.7, -0.3, **ACC),
            "pick acc of A is 0.50 lower than that of B",
            "0.30 to 0.70, 312 documents",
            "B is better",
        ),
        (
            said(0.0, -0.1, 0.1, **ACC),
            "pick acc is the same for A and B",
            "0.10 lower to 0.10 higher, 312 documents",
            "undecided",
        ),
    ],
)
def test_the_sentence_can_be_read_only_one_way(sentence, how_much, how_sure, verdict):
    assert sentence == f"{how_much} (95 % interval {how_sure}): {verdict}"


def test_the_sentence_says_that_documents_are_too_few():
    few = "A needs 0.25 fewer bits a byte than B (3 documents, too few for an interval, which needs 10): undecided"
    assert said(-0.25, None, None, count=3) == few


def answered(values, metric="acc", filter="none", shift=0):
    return [
        {"doc_id": n, "doc_hash": f"{n + shift}", "filter": filter, "metrics": [metric], metric: value}
        for n, value in enumerate(values)
    ]


def test_tasks_are_compared_question_by_question():
    draw = np.random.default_rng(0)
    right = draw.random(200) < 0.5
    better = right | (draw.random(200) < 0.3)
    first = {"samples": {"pick": answered(better.astype(float))}, "higher_is_better": {"pick": {"acc": True}}}
    second = {"samples": {"pick": answered(right.astype(float))}, "higher_is_better": {"pick": {"acc": True}}}
    (found,) = compare_tasks(first, second, names=("A", "B"))
    assert found.difference.value == pytest.approx(better.mean() - right.mean())
    assert (found.figure, found.better, found.documents) == ("pick acc", "A", "questions")
    assert "pick acc of A is " in found.sentence
    second["samples"]["pick"] = answered(right.astype(float), shift=1)
    with pytest.raises(gw.DataError, match="did not answer the same documents of task 'pick'"):
        compare_tasks(first, second)


def test_perplexities_of_tasks_are_ratios_of_sums():
    first = answered([(-20.0 - n, 5 + n) for n in range(12)], metric="word_perplexity", filter="f")
    second = answered([(-25.0 - n, 5 + n) for n in range(12)], metric="word_perplexity", filter="f")
    kept = {"higher_is_better": {"roll": {"word_perplexity": False}}}
    (found,) = compare_tasks({"samples": {"roll": first}, **kept}, {"samples": {"roll": second}, **kept})
    words = sum(5 + n for n in range(12))
    assert found.difference.value == pytest.approx(-5 * 12 / words)
    assert (found.figure, found.better) == ("roll word_perplexity (f) in nats", "A")


def test_documents_of_a_split_are_text(tmp_path):
    rows = [f"{tiny.text(20, seed=n)} Nummer {n}" for n in range(60)]
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, row in enumerate(rows):
        (folder / f"{number:02d}.txt").write_text(row)
    model = drawn(BYTE)
    val, train = (documents_of(model, {"source": str(folder)}, split) for split in ("val", "train"))
    assert sorted(val + train) == sorted(rows)
    assert 0 < len(val) < 20
    (tmp_path / "book.txt").write_text("".join(rows))
    (end,) = documents_of(model, {"source": str(tmp_path / "book.txt")})
    assert "".join(rows).endswith(end)
    with pytest.raises(gw.ConfigError, match="this model has no run behind it, and so no data"):
        documents_of(model)
    with pytest.raises(gw.DataError, match=r"data.source '.*nowhere' does not exist"):
        documents_of(model, {"source": str(tmp_path / "nowhere")})
    with pytest.raises(gw.DataError, match=r"data.format is chat, and documents are compared as plain text"):
        documents_of(model, {"source": str(folder), "format": "chat"})


def test_other_data_is_said():
    first, second = drawn(BYTE), drawn(BYTE)
    settings = tiny.settings(Path("a.txt"))
    first.settings, second.settings = gw.RunConfig.from_dict(settings), gw.RunConfig.from_dict(settings)
    assert other_data(first, second, ("A", "B")) == ()
    second.settings = gw.RunConfig.from_dict(tiny.settings(Path("b.txt")))
    (note,) = other_data(first, second, ("A", "B"))
    assert note.startswith("B was trained on other data than A, whose validation documents these are")
