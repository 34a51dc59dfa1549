"""A run with another model's tokenizer: trained, kept without its source, continued and talked with."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

import gptwright as gw
from gptwright.cli.chat import _template
from gptwright.data.base import Piece
from gptwright.data.config import DataConfig
from gptwright.data.encode import Batch, batches, encode_batch
from gptwright.data.jinja import JinjaTemplate
from gptwright.data.prepare import prepare
from gptwright.data.template import Template
from gptwright.errors import GptwrightError
from gptwright.generate.conversation import Conversation
from gptwright.generate.writer import Writer, encode_prompt
from gptwright.tokenizer.kinds.pretrained import Pretrained
from gptwright.tokenizer.load import make_tokenizer

from . import zoo

CHAT = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"  # noqa: E501
MODEL = {"d_model": 16, "n_layers": 1, "max_seq_len": 64, "position": "rotary"}


def talk(n):
    return [{"role": "user", "content": f"it {n}"}, {"role": "assistant", "content": "was"}]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = zoo.write(tmp_path_factory.mktemp("model"), "llama3", chat_template=CHAT)
    (place / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    return place


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    """A run folder whose tokenizer's source is gone."""
    place = tmp_path_factory.mktemp("runs")
    copy = shutil.copytree(source, place / "copy")
    (place / "chats.jsonl").write_text("".join(json.dumps({"messages": talk(n)}) + "\n" for n in range(30)))
    settings = {
        "model": {**MODEL, "attention": {"type": "softmax", "n_heads": 2}},
        "train": {"steps": 2, "tokens_per_step": 64, "trackers": [], "sample_every": 0},
        "data": {
            "source": str(place / "chats.jsonl"), "format": "chat", "template": "tokenizer",
            "tokenizer": {"type": "pretrained", "source": str(copy)},
        },
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTWRIGHT_CACHE", str(place / "cache"))
        (place / "run.yaml").write_text(json.dumps(settings))
        gw.train(place / "run.yaml", run=place / "run")
    shutil.rmtree(copy)
    return place / "run"


def test_a_run_keeps_the_tokenizer_without_its_source(run, source):
    model, whole = gw.load(run), Pretrained.from_folder(source)
    assert model.tokenizer.fingerprint == whole.fingerprint
    assert model.tokenizer.end_ids == (1, 2)
    assert model.tokenizer.encode("it was").tolist() == whole.encode("it was").tolist()


def test_prompts_begin_as_texts_do_and_every_end_ends(run):
    model = gw.load(run)
    ids = model.tokenizer.encode("it was").tolist()
    assert encode_prompt(model, "it was") == [0, *ids]
    assert encode_prompt(model, "") == [0]
    assert Writer(model).end_ids == [1, 2]
    for end in (1, 2):
        (found,) = gw.generate(model, ["it was"], max_new_tokens=5, logit_bias={end: 100.0}, details=True)
        assert (found.finish_reason, found.ids, found.prompt_tokens) == ("stop", [], 1 + len(ids))


@pytest.mark.parametrize("template", [None, Template.named("plain")])
def test_other_talks_begin_as_texts_do_too(run, template):
    tokenizer = gw.load(run).tokenizer
    talk = Conversation(tokenizer, 64, template)
    first, _ = talk.say("it", 8)
    talk.answered("was", tokenizer.encode("was").tolist())
    second, _ = talk.say("the", 8)
    assert [ids.count(0) for ids in (first, second)] == [1, 1]
    assert first[0] == second[0] == 0
    with pytest.raises(GptwrightError, match="nothing to go on from"):
        Conversation(tokenizer, 64).say("", 8)


def test_a_talk_is_written_as_the_model_s_own_template_does(run):
    model = gw.load(run)
    template = _template(model, None)
    assert isinstance(template, JinjaTemplate)
    talk = Conversation(model.tokenizer, 64, template, system="Be")
    assert (talk.stops, talk.end_ids) == (("<|eot_id|>",), (1, 2))
    talk.say("it", 8)
    talk.answered("was", [5, 6, 7])
    ids, dropped = talk.say("the", 8)
    assert dropped == 0
    assert model.tokenizer.decode(ids) == template.render(talk.messages()[:-1], reply=True)
    assert model.tokenizer.decode(ids).count("<|begin_of_text|>") == 1
    while not dropped:
        talk.answered("was", [])
        ids, dropped = talk.say("times", 8)
    assert len(ids) + 8 <= 64
    assert model.tokenizer.decode(ids).startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>Be<|eot_id|>"
    )


def test_a_model_without_chats_talks_by_its_tokenizers_template(run, source, monkeypatch):
    model = gw.load(run)
    monkeypatch.setattr(model, "settings", None)
    assert _template(model, None) == JinjaTemplate.with_tokens(CHAT, model.tokenizer.special_tokens)
    model.tokenizer.chat_template = None
    assert _template(model, None) is None
    assert _template(model, "chatml").text.startswith("<|im_start|>")


def test_each_document_begins_with_the_prefix(source, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(tmp_path / "cache"))
    texts = [f"it was number {n}" * (n + 1) for n in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = {"source": str(tmp_path / "a.jsonl"), "tokenizer": {"type": "pretrained", "source": str(source)}}
    prepared = prepare(DataConfig.from_dict(data), make_tokenizer=make_tokenizer)
    stream, ours = prepared.split("train"), Pretrained.from_folder(source)
    ids = stream.read(0, len(stream)).tolist()
    places = [0, *(place + 1 for place, id in enumerate(ids) if id == ours.eot_id)]
    documents = [tuple(ids[a:b]) for a, b in pairwise(places)]
    assert set(documents) <= {(0, *ours.encode(text).tolist(), 1) for text in texts}
    assert len(documents) == prepared.train.documents


def test_a_document_over_several_batches_begins_once(tmp_path):
    ours = Pretrained.from_folder(zoo.write(tmp_path, "gpt2"))  # one that may cut a text
    ours.prefix_ids = (7, 8)
    text = "it was the best\n" * 8
    pieces = [("train", Piece(text, last=False)), ("train", Piece(text)), ("train", Piece("the end"))]
    found = [encode_batch(batch, ours, ours.eot_id, np.dtype("uint16")) for batch in batches(pieces, ours, 20)]
    ids = np.concatenate([each.ids for each in found]).tolist()
    assert len(found) > 5
    assert ids == [7, 8, *ours.encode(text + text).tolist(), 0, 7, 8, *ours.encode("the end").tolist(), 0]
    alone = Batch("train", [Piece("it", learn=True)], 2)
    assert encode_batch(alone, ours, 1, np.dtype("uint16")).learn.tolist()[:3] == [False, False, True]
