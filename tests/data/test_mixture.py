"""Mixtures: one tokenizer, exact shares, each part with its own epochs and sides, no document on two sides."""

import json

import numpy as np
import pytest
import torch

from gptwright.data.config import DataConfig
from gptwright.data.prepare import prepare
from gptwright.data.rows import TrainRows
from gptwright.errors import ConfigError, DataError
from gptwright.tokenizer.load import load, make_tokenizer
from gptwright.train.config import RunConfig
from gptwright.train.data import RunData


def lines(path, texts, field="text"):
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def two(tmp_path):
    first = lines(tmp_path / "a.jsonl", [f"first {n} alpha " * 4 for n in range(60)])
    second = lines(tmp_path / "b.jsonl", [f"zweiter {n} beta " * 9 for n in range(50)], field="body")
    return [{"source": first, "weight": 0.7}, {"source": second, "weight": 0.3, "text_field": "body"}]


def make(mixture, **settings):
    config = DataConfig.from_dict({"mixture": mixture, "tokenizer": "char", **settings})
    return config, prepare(config, make_tokenizer=make_tokenizer)


def texts_of(prepared, split, part):
    stream = prepared.split(split, part)
    found = load(prepared.tokenizer_folder).decode(stream.read(0, len(stream)))
    return found.split("<|endoftext|>")[:-1] if prepared.index.tokenizer.eot_id is not None else [found]


def test_parts_share_a_tokenizer_and_keep_their_names(two):
    _, prepared = make(two)
    assert prepared.names == ["a", "b"]
    for part, word in enumerate(["first", "zweiter"]):
        for split in ("train", "val"):
            assert {text.split()[0] for text in texts_of(prepared, split, part)} == {word}
    assert prepared.train.tokens == sum(len(prepared.split("train", part)) for part in (0, 1))
    assert {path.name for path in prepared.folder.glob("*.bin")} == {
        f"part-{part}-{split}-00000.bin" for part in (0, 1) for split in ("train", "val")
    }


def test_equal_names_are_told_apart_and_can_be_chosen(tmp_path, two):
    (tmp_path / "more").mkdir()
    other = lines(tmp_path / "more/a.jsonl", [f"third {n}" for n in range(30)])
    parts = [{**two[0], "weight": 0.5}, {"source": other, "weight": 0.25}, {**two[1], "weight": 0.25, "name": "german"}]
    assert make(parts)[1].names == ["a", "a-2", "german"]
    parts[2]["name"] = "a-2"
    assert make(parts)[1].names == ["a", "a-3", "a-2"]
    parts[0]["name"] = "a-2"
    with pytest.raises(ConfigError, match="two parts of mixture are named 'a-2'; give each a name of its own"):
        make(parts)


def test_weights_move_no_shard_and_prepare_nothing_anew(two):
    _, prepared = make(two)
    _, other = make([{**two[0], "weight": 0.5}, {**two[1], "weight": 0.5}])
    assert other.folder == prepared.folder


@pytest.mark.parametrize("packing", ["stream", "documents", "pad"])
def test_each_part_gives_its_share_and_counts_its_own_epochs(two, packing):
    config, prepared = make(two, packing=packing)
    rows = TrainRows(config, prepared, 32, seed=3)
    numbers = rows.rows_per_epoch
    parts, ranks = rows.mixer.deal(np.arange(numbers))
    least = [int(rank.max()) + 1 for rank in (ranks[parts == 0], ranks[parts == 1])]
    assert all(seen >= packing.n_rows for seen, packing in zip(least, rows.packings, strict=True))
    assert any(seen == packing.n_rows for seen, packing in zip(least, rows.packings, strict=True))
    assert min(rows.epochs(numbers)) == pytest.approx(1.0)
    whole = rows.read(0, 40)
    pieces = [rows.read(first, 8) for first in range(0, 40, 8)]
    for field in range(3):
        if whole[field] is not None:
            assert (np.concatenate([piece[field] for piece in pieces]) == whole[field]).all()
    alpha = load(prepared.tokenizer_folder)
    said = [alpha.decode(row[row > 0]) for row in whole.inputs]
    assert [("beta" in text or "zweiter" in text) for text in said] == (parts[:40] == 1).tolist()


def test_a_part_s_epoch_has_every_token_once(two):
    config, prepared = make(two)
    rows = TrainRows(config, prepared, 24, seed=0)
    for part, packing in enumerate(rows.packings):
        stream = prepared.split("train", part)
        mine = np.flatnonzero(rows.mixer.deal(np.arange(4 * packing.n_rows * 4))[0] == part)[: packing.n_rows]
        found = [rows.read(int(number), 1).targets for number in mine]
        targets = np.concatenate([target[target >= 0] for target in found])
        assert np.bincount(targets).tolist() == np.bincount(stream.read(1, len(stream) - 1)).tolist()


def test_a_document_in_two_parts_stays_on_one_side(tmp_path):
    shared = [f"shared {n}" for n in range(40)]
    for fraction in (0.1, 0.0001, 0.9999):
        first = lines(tmp_path / "a.jsonl", [*shared, "a only", "a too"])
        second = lines(tmp_path / "b.jsonl", [*shared[::-1], "b only"])
        parts = [{"source": first, "weight": 0.5}, {"source": second, "weight": 0.5}]
        _, prepared = make(parts, val_fraction=fraction)
        sides = [{text for part in (0, 1) for text in texts_of(prepared, split, part)} for split in ("train", "val")]
        assert not sides[0] & sides[1]
        assert len(sides[0] | sides[1]) == 43


def test_a_whole_document_is_never_learnt_while_its_end_validates(tmp_path):
    (tmp_path / "one.txt").write_text("the whole book " * 20)
    other = lines(tmp_path / "b.jsonl", ["x", "y", "z", "the whole book " * 20])
    parts = [{"source": str(tmp_path / "one.txt"), "weight": 0.5}, {"source": other, "weight": 0.5}]
    with pytest.raises(
        DataError, match=r"the one document of data\.mixture\.0\.source .* is in data\.mixture\.1\.source"
    ):
        make(parts)
    _, prepared = make(parts, dedup=True)
    assert [part.duplicates for part in prepared.index.parts] == [0, 1]


def test_duplicates_of_earlier_parts_are_left_out(tmp_path):
    first = lines(tmp_path / "a.jsonl", [*(f"shared {n}" for n in range(20)), "shared 3"])
    second = lines(
        tmp_path / "b.jsonl", [*(f"shared {n}" for n in range(15)), *(f"own {n}" for n in range(9)), "own 1"]
    )
    parts = [{"source": first, "weight": 0.5}, {"source": second, "weight": 0.5}]
    _, prepared = make(parts, dedup=True)
    assert [part.duplicates for part in prepared.index.parts] == [1, 16]
    assert sorted(texts_of(prepared, "train", 1) + texts_of(prepared, "val", 1)) == [f"own {n}" for n in range(9)]
    with pytest.raises(DataError, match=r"data\.mixture\.1\.source .* nothing but documents that the parts before it"):
        make([parts[0], {"source": lines(tmp_path / "c.jsonl", ["shared 1", "shared 2"]), "weight": 0.5}], dedup=True)


def test_validation_is_whole_and_says_how_each_part_does(two):
    model = {"d_model": 16, "n_layers": 1, "max_seq_len": 16, "attention": {"type": "softmax", "n_heads": 2}}
    config = RunConfig.from_dict(
        {
            "model": {**model, "vocab_size": 64},
            "train": {"tokens_per_step": 64},
            "data": {"mixture": two, "tokenizer": "char"},
        }
    )
    from gptwright.model.gpt import GPT

    data = RunData.open(config, torch.device("cpu"))
    score = data.validate(GPT(config.model))
    assert set(score.parts) == {"a", "b"}
    assert score.tokens == sum(part.tokens for part in score.parts.values()) == data.prepared.val.tokens - 2
    pooled = sum(part.loss * part.tokens for part in score.parts.values()) / score.tokens
    assert score.loss == pytest.approx(pooled)
    assert score.to_dict()["parts"]["b"]["tokens"] == score.parts["b"].tokens
    assert data.epochs(data.rows_per_epoch)["a"] >= 1
    data.check()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, r"there is no source; give data\.source=my-text\.txt, or several with their weights under data\.mixture"),
        ({"source": "a", "mixture": [{"source": "b", "weight": 1.0}]}, "both source 'a' and a mixture of 1 are given"),
        (
            {"mixture": [{"source": "a", "weight": 0.5}, {"source": "b", "weight": 0.4}]},
            r"weights of mixture sum to 0\.9 and must sum to 1; in proportion: 0\.555556, 0\.444444",
        ),
        ({"mixture": []}, "at least 1"),
        ({"mixture": [{"source": "a", "weight": 0.0}]}, "must be more than 0"),
        ({"mixture": [{"source": "a"}]}, "missing"),
    ],
)
def test_a_mixture_that_cannot_be(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        DataConfig.from_dict(settings)


def test_the_proportion_that_a_refusal_proposes_is_accepted():
    for wrong in ([0.5, 0.4], [0.1] * 7, [1.0, 1.0, 1.0]):
        parts = [{"source": "a", "weight": weight} for weight in wrong]
        with pytest.raises(ConfigError) as error:
            DataConfig.from_dict({"mixture": parts})
        mended = [float(word) for word in str(error.value).split("proportion: ")[1].split(", ")]
        DataConfig.from_dict({"mixture": [{"source": "a", "weight": weight} for weight in mended]})


def test_an_empty_part_is_named(tmp_path, two):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"data\.mixture\.1\.source '.*empty\.txt' is empty"):
        make([two[0], {"source": str(tmp_path / "empty.txt"), "weight": 0.3}])
    with pytest.raises(DataError, match=r"data\.mixture\.1\.source 'nothing\.txt' does not exist"):
        make([two[0], {"source": "nothing.txt", "weight": 0.3}])


def test_a_part_too_short_for_a_row_is_named(tmp_path, two):
    (tmp_path / "short.txt").write_text("short and small")
    config, prepared = make([two[0], {"source": str(tmp_path / "short.txt"), "weight": 0.3}])
    with pytest.raises(DataError, match=r"the train split of part short has 13 tokens"):
        TrainRows(config, prepared, 16, 0)
