import json
import shutil
import sys

import pytest

import gptwright as gw
from gptwright.evaluate.strided import score_text

from .conftest import TEXT


def test_json_is_the_score(gptwright, trained):
    found = gptwright("eval", trained, "--json").json
    assert found == gw.evaluate(gw.load(trained)).to_dict()
    assert set(found) == {"loss", "bits_per_byte", "perplexity", "tokens"}
    assert found["tokens"] == 431  # a tenth of the text, all but its first character


def test_people_read_lines(gptwright, trained):
    done = gptwright("eval", trained)
    assert done.code == 0
    score = gw.evaluate(gw.load(trained))
    lines = dict(line.split("  ", 1) for line in done.out.splitlines())
    assert lines["loss"].strip() == f"{score.loss:.4f} nats a token"
    assert lines["tokens"].strip() == "431"
    assert "on the val split of" in lines["measured"]


def test_the_training_split(gptwright, trained):
    assert gptwright("eval", trained, "--split", "train", "--json").json["tokens"] == 3887


def test_another_text(gptwright, trained, workshop):
    (workshop / "other.txt").write_text("A cat barked at the moon.\n" * 40)
    done = gptwright("eval", trained, "--data", "other.txt", "--json")
    assert done.code == 0, done.err
    assert done.json["tokens"] == 103
    assert done.json == gw.evaluate(gw.load(trained), data={"source": "other.txt"}).to_dict()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["runs/nothing"], "there is no folder runs/nothing; give a run folder such as runs/demo"),
        (["runs"], "runs is not a run: it has no config.yaml"),
        (["runs/tiny", "--split", "test"], "--split is 'test' and must be val or train"),
        (["runs/tiny", "--data", "nothing.txt"], "data.source 'nothing.txt' does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(gptwright, trained, arguments, sentence):
    done = gptwright("eval", *arguments, "--quiet")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")
    assert done.err.count("\n") == 1


def test_a_text_in_windows(gptwright, trained, workshop):
    (workshop / "other.txt").write_text("A cat barked at the moon.\n" * 8)
    model = gw.load(trained)
    score = score_text(model, "A cat barked at the moon.\n" * 8, stride=4, context=8)
    done = gptwright("eval", trained, "--text", "other.txt", "--stride", 4, "--context", 8, "--json")
    assert done.json == {**score.to_dict(), "context": 8, "stride": 4, "first_token_counted": False}
    lines = dict(line.split("  ", 1) for line in gptwright("eval", trained, "--text", "other.txt").out.splitlines())
    assert lines["windows"].strip() == "16 tokens, moving on by 8"
    assert lines["first token"].strip() == "not counted: nothing stands before it"
    assert lines["tokens"].strip() == "207"


def test_two_runs_on_the_same_documents(gptwright, trained, workshop):
    other = shutil.copytree(trained, "runs/other")
    done = gptwright("eval", trained, "--against", other, "--out", "found/here.json", "--json")
    assert done.json["sentence"].startswith("runs/tiny and runs/other need the same bits a byte")
    assert json.loads((workshop / "found" / "here.json").read_text()) == done.json
    assert done.json["of"] == "documents"  # the end of one text of 4 kB
    (workshop / "texts.jsonl").write_text("".join(json.dumps({"text": TEXT[:n]}) + "\n" for n in range(40, 400, 3)))
    done = gptwright("eval", trained, "--against", other, "--data", "texts.jsonl", "--split", "train", "--stride", 3)
    assert done.code == 0, done.err
    assert "95 % interval 0.000 to 0.000" in done.out
    done = gptwright("eval", trained, "--against", other, "--text", "text.txt", "--quiet")
    assert "blocks of one text): undecided" in done.out or "too few for an interval" in done.out


TASK = """\
task: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: '{{q}}'
doc_to_choice: '{{a}}'
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def task(workshop, monkeypatch):
    """Return a file with a task of twelve questions, for a library that finds no network and asks pip nothing."""
    pytest.importorskip("lm_eval", reason="it comes with gptwright[eval]")
    datasets = pytest.importorskip("datasets")
    from torch.utils import collect_env

    monkeypatch.setattr(collect_env, "get_pretty_env_info", lambda: "not asked")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(workshop / "cache"))
    rows = [{"q": TEXT[n : n + 9], "a": [" cat", " dog on", "moon"]} for n in range(12)]
    (workshop / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workshop / "tiny-task.yaml").write_text(TASK)
    return "tiny-task.yaml"


def test_tasks_as_a_table_and_as_lm_evals_json(gptwright, trained, task, workshop):
    done = gptwright("eval", trained, "--tasks", task, "--quiet")
    assert (done.code, done.err) == (0, "")
    head, row = done.out.splitlines()
    assert head.split() == ["task", "filter", "shots", "metric", "value", "+-"]
    assert row.split()[:4] == ["tiny", "none", "0", "acc"]
    done = gptwright(
        "eval", trained, "--tasks", "tiny", "--include-path", ".", "--limit", 5, "--json", "--out", "a.json"
    )
    assert done.json["n-samples"]["tiny"] == {"original": 12, "effective": 5}
    assert set(done.json["results"]["tiny"]) >= {"acc,none", "acc_stderr,none"}
    assert json.loads((workshop / "a.json").read_text())["results"] == done.json["results"]


def test_two_runs_at_the_same_task(gptwright, trained, task):
    done = gptwright("eval", trained, "--tasks", task, "--against", trained, "--quiet")
    assert done.code == 0, done.err
    assert done.out.startswith("tiny acc is the same for runs/tiny and runs/tiny (95 % interval 0.000 to 0.000, 12 qu")
    found = gptwright("eval", trained, "--tasks", task, "--against", trained, "--quiet", "--json").json
    assert found["comparisons"][0]["figure"] == "tiny acc"
    assert [each["results"]["tiny"]["alias"] for each in found["results"]] == ["tiny", "tiny"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tasks", "x", "--text", "text.txt"], "--tasks and --text were given, and each says what to measure on"),
        (["--stride", "4"], "--stride goes with --text or --against; leave it out, or give that too"),
        (["--num-fewshot", "4"], "--num-fewshot goes with --tasks; leave it out, or give that too"),
        (["--precision", "fp32"], "--precision goes with --text, --tasks or --against"),
        (["--text", "nothing.txt"], "there is no file nothing.txt"),
        (["--text", "empty.txt"], "the text is empty: there is nothing to score; give a longer one"),
        (["--text", "text.txt", "--stride", "17"], "stride is 17 and context 16: tokens between two windows"),
        (["--against", "runs/nothing"], "there is no folder runs/nothing"),
        (["--tasks", "gone.yaml"], "there is no task file gone.yaml"),
        (["--tasks", "gone.yaml", "--gen-kwargs", "a"], "--gen-kwargs has 'a', and wants key=value,key=value"),
        (["--text", "text.txt", "--out", "text.txt/x.json"], "cannot write text.txt/x.json"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(gptwright, trained, workshop, arguments, sentence):
    (workshop / "empty.txt").write_text("")
    done = gptwright("eval", trained, *arguments, "--quiet", "--json")
    assert done.code == 2
    assert done.err.startswith(f"error: {sentence}")
    assert done.err.count("\n") == 1


def test_a_run_without_a_tokenizer_is_said(gptwright, trained):
    for folder in trained.glob("checkpoints/*/tokenizer"):
        shutil.rmtree(folder)
    done = gptwright("eval", trained, "--text", "text.txt")
    assert done.code == 2
    assert "tokenizer" in done.err


def test_without_the_extra_the_pip_line_is_said(gptwright, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    done = gptwright("eval", trained, "--tasks", "hellaswag")
    assert done.code == 2
    assert done.err.endswith("needs lm-eval, which is not installed: pip install 'gptwright[eval]'\n")
