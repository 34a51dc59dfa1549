"""Prompts with completions and chats: what is learnt, what is not, and one sentence for each bad line."""

import json

import numpy as np
import pytest

from gptwright.data.config import DataConfig
from gptwright.data.packing import IGNORE
from gptwright.data.prepare import prepare
from gptwright.data.rows import TrainRows, open_packing
from gptwright.data.shards import Prepared
from gptwright.data.template import TEMPLATES, Template, encode
from gptwright.errors import ConfigError, DataError
from gptwright.tokenizer.load import load, make_tokenizer


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def make(path, **settings):
    config = DataConfig.from_dict({"source": str(path), "format": "chat", **settings})
    return config, prepare(config, make_tokenizer=make_tokenizer)


def talk(n):
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"What is {n}?"},
        {"role": "assistant", "content": f"A number, {n}."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]


@pytest.fixture
def chats(tmp_path):
    return write(tmp_path / "chats.jsonl", [{"messages": talk(n)} for n in range(40)])


@pytest.fixture
def pairs(tmp_path):
    rows = [{"prompt": f"Count to {n}: ", "completion": " ".join(map(str, range(n + 1)))} for n in range(30)]
    return write(tmp_path / "pairs.jsonl", rows)


def examples(config, prepared, split="train", context=512):
    """Return each example as (its text, what is learnt of it), as the packed rows show them."""
    tokenizer, found = load(prepared.tokenizer_folder), []
    for rows in open_packing(config, prepared, split, context).in_order(7):
        for inputs, targets, segments in zip(*rows, strict=True):
            for number in range(1, segments.max() + 1):
                mine = segments == number
                learnt = targets[mine]
                found.append((tokenizer.decode(inputs[mine]), tokenizer.decode(learnt[learnt != IGNORE])))
    return found


@pytest.mark.parametrize("packing", ["documents", "pad", None])
@pytest.mark.parametrize("tokenizer", ["byte", "char", {"type": "bpe", "vocab_size": 300}])
def test_only_answers_and_their_end_marks_are_learnt(chats, packing, tokenizer):
    config, prepared = make(chats, packing=packing, tokenizer=tokenizer)
    found = examples(config, prepared) + examples(config, prepared, "val")
    assert len(found) == 40
    for text, learnt in found:
        n = text.split("What is ")[1].split("?")[0]
        assert learnt == f"A number, {n}.<|im_end|>\nYes.<|im_end|>\n<|endoftext|>"
        head = f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is {n}?<|im_end|>\n"
        assert text.startswith(f"{head}<|im_start|>assistant\nA number")


def test_everything_is_learnt_on_request(chats):
    config, prepared = make(chats, train_on="all")
    for text, learnt in examples(config, prepared):
        assert learnt == f"{text[1:]}<|endoftext|>"


def test_completions(pairs):
    config, prepared = make(pairs, format="completion")
    for text, learnt in examples(config, prepared):
        prompt, _, completion = text.partition(": ")
        assert prompt.startswith("Count to ")
        assert learnt == f"{completion}<|endoftext|>"


def test_fields_of_other_names(tmp_path):
    rows = [{"q": f"{n}?", "a": f"{n}!"} for n in range(9)]
    path = write(tmp_path / "a.jsonl", rows)
    config, prepared = make(path, format="completion", prompt_field="q", completion_field="a")
    assert all(learnt[-14:] == "!<|endoftext|>" for _, learnt in examples(config, prepared))
    path = write(tmp_path / "b.jsonl", [{"turns": talk(n)} for n in range(9)])
    assert make(path, messages_field="turns")[1].train.documents > 0


def test_parquet_holds_chats_too(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"messages": [talk(n) for n in range(9)]}), tmp_path / "a.parquet")
    config, prepared = make(tmp_path / "a.parquet")
    assert len(examples(config, prepared) + examples(config, prepared, "val")) == 9


def test_long_examples_are_cut_and_pieces_without_an_answer_are_left_out(tmp_path):
    rows = [{"prompt": f"{n} " + "p" * 100, "completion": "c" * 30} for n in range(20)]
    config, prepared = make(write(tmp_path / "a.jsonl", rows), format="completion", packing="pad")
    train = TrainRows(config, prepared, 32, seed=0)
    found = train.read(0, train.rows_per_epoch)
    assert ((found.targets != IGNORE).sum(1) > 0).all()
    assert (found.targets == ord("c")).sum() == 30 * prepared.train.documents


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_reads_as_it_did_in_training(chats, name):
    _, prepared = make(chats, template=name, tokenizer={"type": "bpe", "vocab_size": 320})
    template = Prepared.open(prepared.folder).template
    assert template == Template.named(name)
    tokenizer = load(prepared.tokenizer_folder)
    stream = prepared.split("val")
    learn = stream.learn(0, len(stream))
    first = int(np.flatnonzero(learn)[0])
    n = tokenizer.decode(stream.read(0, first)).split("What is ")[1].split("?")[0]
    prompt = encode(tokenizer, template.spans(talk(n)[:2], reply=True))
    assert prompt == stream.read(0, first).tolist()
    second = first + int(np.flatnonzero(~learn[first:])[0])
    second += int(np.flatnonzero(learn[second:])[0])
    assert encode(tokenizer, template.spans(talk(n)[:4], reply=True)) == stream.read(0, second).tolist()
    assert template.closing("assistant").strip() or name == "plain" or name == "headings"


def test_a_template_of_one_s_own(chats):
    config, prepared = make(chats, template="[{role}] {content} [/{role}]")
    assert prepared.template.text == "[{role}] {content} [/{role}]"
    text, learnt = examples(config, prepared)[0]
    assert text.startswith("[system] Be brief. [/system][user] What")
    assert learnt.endswith(". [/assistant]Yes. [/assistant]<|endoftext|>")


@pytest.mark.parametrize("template", ["chatmll", "{content}", "{content} {role}", "{role}{content}{content}"])
def test_a_template_that_is_none(chats, template):
    with pytest.raises(DataError, match=r"is none of chatml, plain, headings, and as a template of your own it must"):
        make(chats, template=template)


def test_stream_would_mix_examples_and_is_refused():
    with pytest.raises(ConfigError, match="packing stream would run the examples of format chat into one another"):
        DataConfig.from_dict({"source": "x", "format": "chat", "packing": "stream"})


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", r"line 3 of .*bad\.jsonl is not JSON"),
        ("[1]", r"line 3 of .* is a JSON list, not an object with the key 'messages'"),
        ({"text": "x"}, r"line 3 of .* has no 'messages' \(it has 'text'\): set data\.messages_field"),
        ({"messages": []}, r"line 3 of .* has no messages: give it some"),
        ({"messages": "hello"}, r"line 3 of .* has a str under 'messages', not a list of messages: write"),
        ({"messages": [USER, "b"]}, r"message 2 on line 3 of .* is a str, not an object"),
        ({"messages": [USER, {"content": "b"}]}, r"message 2 on line 3 of .* has no 'role' \(it has 'content'\)"),
        ({"messages": [{"role": "user"}, ANSWER]}, r"message 1 on line 3 of .* has no 'content'"),
        (
            {"messages": [USER, {"role": "asistant", "content": "b"}]},
            r"message 2 on line 3 of .* unknown role 'asistant'; the roles are system, .*; did you mean 'assistant'\?",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": 5}]},
            r"message 2 on line 3 .* has a int under 'content'",
        ),
        ({"messages": [USER, {"role": ["x"], "content": "b"}]}, r"message 2 on line 3 .* unknown role \['x'\]"),
        ({"messages": [USER]}, r"line 3 of .* has no message of the assistant, and only those are learnt"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', r"message 1 on line 3 .* half of a surrogate pair"),
    ],
)
def test_bad_lines_of_a_chat_are_named(tmp_path, line, sentence):
    path = write(tmp_path / "bad.jsonl", [{"messages": talk(1)}, "", line])
    with pytest.raises(DataError, match=sentence):
        make(path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"prompt": "a"}, r"line 2 of .* has no 'completion' \(it has 'prompt'\): set data\.completion_field"),
        ({"completion": "a"}, r"line 2 of .* has no 'prompt' .*: set data\.prompt_field"),
        ({"prompt": "a", "completion": ""}, r"line 2 of .* has an empty 'completion', and a completion is what is"),
        ({"prompt": None, "completion": "b"}, r"line 2 of .* has a null under 'prompt', not text: set data\.prompt_f"),
    ],
)
def test_bad_lines_of_completions_are_named(tmp_path, line, sentence):
    path = write(tmp_path / "bad.jsonl", [{"prompt": "a", "completion": "b"}, line])
    with pytest.raises(DataError, match=sentence):
        make(path, format="completion")


def test_plain_text_holds_no_chats(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for source in (tmp_path / "a.txt", tmp_path, "python-docs"):
        with pytest.raises(DataError, match=r"is plain text, and data\.format chat needs rows with 'messages': give a"):
            make(source)


def test_a_single_example_cannot_be_divided(tmp_path):
    path = write(tmp_path / "one.jsonl", [{"messages": talk(1)}])
    with pytest.raises(DataError, match=r"one\.jsonl' holds a single example, and one is needed to learn from"):
        make(path)


def test_the_tokenizer_of_another_run_reads_them_and_is_found_again(pairs, tmp_path):
    (tmp_path / "base.txt").write_text("Count to 0123456789: \n" * 9)
    base = prepare(
        DataConfig.from_dict({"source": str(tmp_path / "base.txt"), "tokenizer": "char"}), make_tokenizer=make_tokenizer
    )
    tokenizer = load(base.tokenizer_folder)
    config = DataConfig.from_dict({"source": str(pairs), "format": "completion", "dedup": True})
    made = prepare(config, make_tokenizer=make_tokenizer, tokenizer=tokenizer)
    assert made.index.tokenizer.fingerprint == tokenizer.fingerprint
    assert made.index.source["notes"] == [
        "the tokenizer has no end-of-text token, so nothing marks the end of an example"
    ]
    again = prepare(config, make_tokenizer=None, tokenizer=tokenizer)
    assert again.folder == made.folder
    assert [learnt[0] for _, learnt in examples(config, made)] == ["0"] * made.train.documents


def test_a_mask_that_was_changed_is_noticed(chats):
    _, prepared = make(chats)
    mask = prepared.folder / "train-00000.learn"
    content = bytearray(mask.read_bytes())
    content[5] ^= 1
    mask.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000\.learn does not match its hash"):
        prepared.check()
    with pytest.raises(DataError, match=r"train-00000\.learn does not match its hash"):
        make(chats)
