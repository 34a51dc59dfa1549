"""Likelihood over the whole validation split, checked against a loop written by hand."""

import json
import math

import pytest
import torch

import gptwright as gw
from gptwright.data.prepare import prepare
from gptwright.tokenizer.load import make_tokenizer

from .. import tiny


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(tiny.text(1200).replace("cat", "caté"), "utf-8", newline="")
    return path


@pytest.fixture(scope="module", params=["char", "byte", "bpe"])
def run(request, book, tmp_path_factory):
    tokenizer = {"type": "bpe", "vocab_size": 300} if request.param == "bpe" else request.param
    folder = tmp_path_factory.mktemp("runs") / "r"
    config = tiny.settings(book, {"data.tokenizer": tokenizer, "train.steps": 6})
    return folder, tiny.train(config, folder)


def by_hand(model: gw.GPT, text: str) -> tuple[float, int, float]:
    """Return nats, tokens and bits a byte of ``text``: windows one after the other, every token but the first once."""
    ids = model.tokenizer.encode(text)
    context, nats, count = model.config.max_seq_len, 0.0, 0
    for start in range(0, len(ids) - 1, context):
        window = torch.from_numpy(ids[start : start + context + 1])
        with torch.no_grad():
            log_probs = model(window[None, :-1])[0].double().log_softmax(-1)
        nats -= float(log_probs.gather(1, window[1:, None]).sum())
        count += len(window) - 1
    text_bytes = len(text.encode()) - len(model.tokenizer.token_bytes(int(ids[0])))
    return nats, count, nats / math.log(2) / text_bytes


def validation_text(book) -> str:
    text = book.read_text("utf-8")
    return text[int(len(text) * 0.9) :]


def test_it_is_the_whole_split_by_hand(run, book):
    model = gw.load(run[0])
    found = gw.evaluate(model)
    nats, count, bits = by_hand(model, validation_text(book))
    assert found.tokens == count
    assert found.loss == pytest.approx(nats / count, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(bits, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert set(found.to_dict()) == {"loss", "bits_per_byte", "perplexity", "tokens"}


def test_it_is_the_same_each_time_and_the_run_s_own(run):
    model, result = gw.load(run[0]), run[1]
    scores = [gw.evaluate(model) for _ in range(2)]
    assert scores[0] == scores[1]
    assert scores[0].loss == result.val_loss
    assert scores[0].bits_per_byte == result.val_bits_per_byte


def test_the_training_split_can_be_scored(run, book):
    model = gw.load(run[0])
    text = book.read_text("utf-8")
    nats, count, _ = by_hand(model, text[: int(len(text) * 0.9)])
    found = gw.evaluate(model, split="train")
    assert (found.tokens, found.loss) == (count, pytest.approx(nats / count, rel=1e-5))


def test_another_split_is_refused(run):
    with pytest.raises(gw.GptwrightError, match="'test' is no split; use 'val' or 'train'"):
        gw.evaluate(gw.load(run[0]), split="test")


def test_other_text_is_read_with_the_model_s_own_tokenizer(run, book, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(tiny.text(800, seed=3), "utf-8")
    model = gw.load(run[0])
    nats, count, _ = by_hand(model, validation_text(other))
    found = gw.evaluate(model, data={"source": str(other)})
    assert (found.tokens, found.loss) == (count, pytest.approx(nats / count, rel=1e-5))


def test_text_that_has_changed_is_not_scored_with_another_tokenizer(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text(tiny.text(900), "utf-8")
    tiny.train(tiny.settings(book, {"train.steps": 3}), tmp_path / "r")
    book.write_text(tiny.text(900) + "ÄÖ", "utf-8")
    with pytest.raises(gw.DataError, match="has changed since this model was trained, and its tokenizer with it"):
        gw.evaluate(gw.load(tmp_path / "r"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_computes_as_the_run_did(book, tmp_path, precision):
    result = tiny.train(tiny.settings(book, {"train.steps": 6, "train.precision": precision}), tmp_path / "r")
    found = gw.evaluate(gw.load(tmp_path / "r"))
    assert found.loss == result.val_loss
    exact = by_hand(gw.load(tmp_path / "r"), validation_text(book))
    assert found.loss == pytest.approx(exact[0] / exact[1], rel=5e-3)


def test_the_model_is_left_as_it_was(run):
    model = gw.load(run[0])
    model.train()
    before = gw.evaluate(model)
    assert model.training
    assert gw.evaluate(model.eval()) == before


def test_documents_are_scored_with_their_ends(tmp_path):
    """Several documents: the token that ends one counts as a token, and stands for no byte."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for number in range(40):
        (shelf / f"{number}.txt").write_text(tiny.text(40, seed=number), "utf-8")
    tiny.train(tiny.settings(shelf, {"train.steps": 4}), tmp_path / "r")
    model = gw.load(tmp_path / "r")
    found = gw.evaluate(model)
    assert found.bits_per_byte > found.loss / math.log(2)  # more tokens than bytes
    assert found.tokens > 0


def alone(model, texts: list[tuple[str, str]]) -> tuple[float, int, int]:
    """Return nats, tokens and bytes of each (prompt, answer) read by itself, its end-of-text token counted."""
    nats, count, size = 0.0, 0, 0
    for prompt, answer in texts:
        known = [len(model.tokenizer.encode(prompt)), len(model.tokenizer.encode(answer))]
        ids = [*model.tokenizer.encode(prompt), *model.tokenizer.encode(answer), model.tokenizer.eot_id]
        with torch.no_grad():
            log_probs = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
        first = max(known[0], 1)
        picked = log_probs.gather(1, torch.tensor(ids[1:])[:, None])[first - 1 :]
        nats, count, size = nats - float(picked.sum()), count + len(picked), size + len(answer.encode())
    return nats, count, size


@pytest.mark.parametrize("packing", ["documents", "pad"])
def test_packed_documents_are_scored_as_if_alone(tmp_path, packing):
    """Answers of examples that share rows get the loss that each has when it is read by itself."""
    rows = [{"prompt": tiny.text(3, seed=n), "completion": tiny.text(3, seed=n + 99)} for n in range(60)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.format": "completion", "data.packing": packing, "model.max_seq_len": 64, "data.val_fraction": 0.3}
    tiny.train(tiny.settings(path, {**changes, "train.steps": 4, "train.tokens_per_step": 128}), tmp_path / "r")
    model = gw.load(tmp_path / "r")
    found = gw.evaluate(model)
    prepared = prepare(model.settings.data, make_tokenizer=make_tokenizer)
    stream = prepared.split("val")
    said = model.tokenizer.decode(stream.read(0, len(stream))).split("<|endoftext|>")[:-1]
    whole = {row["prompt"] + row["completion"]: (row["prompt"], row["completion"]) for row in rows}
    nats, count, size = alone(model, [whole[text] for text in said])
    assert 10 < len(said) < 30
    assert (found.tokens, found.loss) == (count, pytest.approx(nats / count, rel=1e-5))
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_a_mixture_is_scored_whole_and_by_part_and_other_text_instead_of_it(tmp_path, book):
    other = tmp_path / "other.txt"
    other.write_text(tiny.text(700, seed=5), "utf-8")
    mixture = [{"source": str(book), "weight": 0.5}, {"source": str(other), "weight": 0.5}]
    changes = {"data.source": None, "data.mixture": mixture, "train.steps": 3}
    tiny.train(tiny.settings(book, changes), tmp_path / "r")
    model = gw.load(tmp_path / "r")
    found = gw.evaluate(model)
    for name, path in (("book", book), ("other", other)):
        nats, count, bits = by_hand(model, validation_text(path))
        part = found.parts[name]
        assert (part.tokens, part.loss) == (count, pytest.approx(nats / count, rel=1e-5))
        assert part.bits_per_byte == pytest.approx(bits, rel=1e-5)
    alone = gw.evaluate(model, data={"source": str(other)})
    assert alone.loss == pytest.approx(found.parts["other"].loss, rel=1e-6)
    assert not alone.parts


def test_a_model_without_data_of_its_own_scores_other_data(run, book):
    model = gw.load(run[0])
    expected = gw.evaluate(model, data={"source": str(book)})
    model.settings = model.settings.model_copy(update={"data": None})
    assert gw.evaluate(model, data={"source": str(book)}) == expected
    with pytest.raises(gw.ConfigError, match="this model was not trained here, so there is no data of its own"):
        gw.evaluate(model)
