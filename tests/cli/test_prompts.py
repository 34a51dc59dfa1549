"""Many prompts from a file to answers in a file: kept, continued after a kill, and refused when they do not fit."""

import json
import signal
import subprocess
import sys
import time

import pytest

import gptwright as gw

from .test_generate import PRESS

PROMPTS = [
    {"prompt": prompt, "id": f"q{n}"} for n, prompt in enumerate(["The cat", "A", "The cat", "dog", "on the", "T"])
]
HOW = ["--max-new-tokens", 6, "--seed", 3, "--quiet"]


@pytest.fixture
def ask(gptwright, trained, workshop):
    """Return a function that has the prompts of a file answered."""

    def ask(*arguments, prompts=PROMPTS, how=HOW, name="p.jsonl"):
        if prompts is not None:
            (workshop / name).write_text("".join(json.dumps(each) + "\n" for each in prompts))
        return gptwright("generate", trained, "--prompts", name, "--out", "out.jsonl", *how, *arguments)

    return ask


@pytest.fixture
def answers(workshop):
    """Return a function that reads the answers, in the order of their prompts."""

    def answers():
        found = [json.loads(line) for line in (workshop / "out.jsonl").read_text("utf-8").splitlines()]
        return sorted(found, key=lambda each: each["index"])

    return answers


def test_every_prompt_has_one_answer_with_its_own_fields(ask, answers, trained):
    assert ask().code == 0
    found = answers()
    assert [each["index"] for each in found] == list(range(6))
    assert [(each["prompt"], each["id"]) for each in found] == [(each["prompt"], each["id"]) for each in PROMPTS]
    first = gw.generate(gw.load(trained), "The cat", max_new_tokens=6, seed=3, details=True)
    assert (found[0]["completion"], found[0]["finish_reason"]) == (first.text, "length")
    assert (found[0]["prompt_tokens"], found[0]["new_tokens"]) == (7, 6)
    assert found[0]["completion"] != found[2]["completion"]  # equal prompts draw differently


def test_answers_do_not_depend_on_how_many_are_written_at_once(ask, answers, workshop):
    assert ask("--rows", 1).code == 0
    alone = answers()
    (workshop / "out.jsonl").unlink()
    assert ask("--rows", 4).code == 0
    assert answers() == alone


def test_a_line_may_have_settings_of_its_own(ask, answers, trained):
    own = {"prompt": "A", "sampling": {"max_new_tokens": 2, "seed": 8, "stop": "z"}}
    assert ask(prompts=[*PROMPTS[:2], own]).code == 0
    found = answers()[2]
    assert found["sampling"] == own["sampling"]
    assert found["completion"] == gw.generate(gw.load(trained), "A", max_new_tokens=2, seed=8, details=True).text


def test_several_samples_of_each(ask, answers):
    assert ask("--num-samples", 2).code == 0
    found = answers()
    assert all(len(each["samples"]) == 2 and "completion" not in each for each in found)
    assert len({part["completion"] for each in (found[0], found[2]) for part in each["samples"]}) == 4


def test_a_text_file_holds_a_prompt_a_line(gptwright, trained, workshop, answers):
    (workshop / "p.txt").write_text("The cat\r\n\n  A dog\n")
    done = gptwright("generate", trained, "--prompts", "p.txt", "--out", "out.jsonl", *HOW, "--json")
    assert done.json == {"out": "out.jsonl", "lines": 2, "kept": 0, "new_tokens": 12}
    assert [each["prompt"] for each in answers()] == ["The cat", "  A dog"]


def test_what_is_there_is_kept_and_a_torn_line_is_not(ask, answers, workshop):
    assert ask().code == 0
    whole, out = answers(), workshop / "out.jsonl"
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    done = ask("--json")
    assert (done.json["lines"], done.json["kept"]) == (6, 3)
    assert answers() == whole
    assert out.read_bytes().splitlines(keepends=True)[:3] == lines[:3]
    before = out.read_bytes()
    assert ask("--json").json["kept"] == 6
    assert out.read_bytes() == before


def test_without_a_seed_the_first_one_is_gone_on_with(ask, answers, workshop):
    how = ["--max-new-tokens", 6, "--quiet"]
    assert ask(how=how).code == 0
    whole, out = answers(), workshop / "out.jsonl"
    out.write_bytes(out.read_bytes().splitlines(keepends=True)[0])
    assert ask(how=how).code == 0
    assert answers() == whole


def test_progress_is_told_on_stderr(ask):
    done = ask(how=["--max-new-tokens", 2])
    assert done.out == ""
    assert done.err == "writing\n6 answers are in out.jsonl\n"
    assert ask(how=["--max-new-tokens", 2]).err == "writing\n6 answers are in out.jsonl, 6 of them from before\n"


def test_killed_at_any_moment_and_run_again(ask, answers, trained, workshop):
    prompts = [{"prompt": letter} for letter in "The cat sat on the mat" if letter != " "] * 12
    how = ["--max-new-tokens", "10", "--seed", "3", "--quiet"]
    out, names = workshop / "out.jsonl", ["--prompts", "p.jsonl", "--out", "out.jsonl"]
    command = [sys.executable, "-m", "gptwright", "generate", str(trained), *names, *how, "--rows", "4"]
    (workshop / "p.jsonl").write_text("".join(json.dumps(each) + "\n" for each in prompts))
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 5):
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = out.read_bytes()
    assert 5 <= kept.count(b"\n") < len(prompts)
    assert ask(prompts=None, how=how).code == 0
    assert out.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    found = answers()
    assert [each["index"] for each in found] == list(range(len(prompts)))
    out.unlink()
    assert ask(prompts=None, how=how).code == 0
    assert answers() == found


def test_ctrl_c_keeps_what_is_finished(ask, answers, trained, workshop):
    (workshop / "p.jsonl").write_text("".join(json.dumps(each) + "\n" for each in PROMPTS))
    arguments = ["generate", str(trained), "--prompts", "p.jsonl", "--out", "out.jsonl", *HOW, "--rows", 1]
    command = [sys.executable, "-c", PRESS, "15", *(str(each) for each in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("what is finished is in out.jsonl; the same command goes on with the rest\n")
    finished = answers()
    assert 1 <= len(finished) <= 3
    assert ask(prompts=None).code == 0
    assert answers()[: len(finished)] == finished
    assert len(answers()) == len(PROMPTS)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('{"prompt": "A"}\n{"prompt"\n', "p.jsonl, line 2 is not JSON: "),
        ('{"prompt": "A"}\n\n[1]\n', 'p.jsonl, line 3 is no object with a text "prompt"; write'),
        ('{"prompt": 3}\n', 'p.jsonl, line 1 is no object with a text "prompt"'),
        ('{"prompt": "A", "index": 3}\n', "p.jsonl, line 1 has a field 'index', which the answer needs for itself"),
        ('{"prompt": "A", "sampling": 3}\n', "p.jsonl, line 1: sampling is 3, but must be an object"),
        ('{"prompt": "A", "sampling": {"topk": 3}}\n', "p.jsonl, line 1: there is no sampling setting 'topk'; did you"),
        ('{"prompt": "A", "sampling": {"top_k": 0}}\n', "p.jsonl, line 1: top_k is 0 and must be at least 1"),
        ('{"prompt": "A"}\n{"prompt": "Żaba"}\n', "p.jsonl, line 2: the character 'Ż'"),
        ('{"prompt": "A"}\n{"prompt": "The cat sat"}\n', "p.jsonl, line 2: the prompt has 11 tokens and 6 new ones"),
        ("\n", "p.jsonl holds no prompt; write one a line"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_written(ask, workshop, lines, sentence):
    (workshop / "p.jsonl").write_text(lines, "utf-8")
    done = ask(prompts=None)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")
    assert not (workshop / "out.jsonl").exists()


def test_a_file_of_another_kind(gptwright, trained, workshop):
    (workshop / "p.csv").write_text("A\n")
    done = gptwright("generate", trained, "--prompts", "p.csv", "--out", "out.jsonl")
    assert done.err == "error: p.csv ends in '.csv', and prompts come from a .jsonl or a .txt file; rename it\n"


CHANGED = {
    "a setting": (["--temperature", 0.5], 'was written with temperature "the default" and now it is 0.5; go on with'),
    "the seed": (["--seed", 4], "was written with seed 3 and now it is 4"),
    "samples": (["--num-samples", 2], 'was written with num_samples "the default" and now it is 2'),
}


@pytest.mark.parametrize("name", CHANGED)
def test_other_settings_are_refused(ask, workshop, name):
    assert ask().code == 0
    before = (workshop / "out.jsonl").read_bytes()
    options, sentence = CHANGED[name]
    done = ask(*options)
    assert done.code == 2
    assert done.err.startswith("error: out.jsonl, line 1 " + sentence)
    assert (workshop / "out.jsonl").read_bytes() == before


def test_other_weights_are_refused(ask, gptwright, trained, workshop):
    assert ask().code == 0
    assert gptwright("train", "--resume", "--run", trained, "--resume-with", "train.steps=6", "--quiet").code == 0
    assert "was written with model" in ask().err


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda lines: [b"{}\n", *lines], "out.jsonl, line 1 is no answer of ours; name another --out"),
        (lambda lines: [lines[0], lines[0]], "out.jsonl, line 2 answers prompt 0 a second time; delete one"),
        (
            lambda lines: [lines[0].replace(b"The cat", b"The dog")],
            "out.jsonl, line 1 answers prompt 0, which is another",
        ),
    ],
)
def test_answers_that_are_not_to_these_prompts_are_refused(ask, workshop, spoil, sentence):
    assert ask("--rows", 1).code == 0
    out = workshop / "out.jsonl"
    out.write_bytes(b"".join(spoil(sorted(out.read_bytes().splitlines(keepends=True)))))
    done = ask()
    assert done.code == 2
    assert done.err.startswith(f"error: {sentence}")


def test_answers_that_cannot_be_written(ask, gptwright, trained, workshop):
    (workshop / "p.jsonl").write_text('{"prompt": "A"}\n')
    (workshop / "file").write_text("")
    done = gptwright("generate", trained, "--prompts", "p.jsonl", "--out", "file/out.jsonl", *HOW)
    assert done.code == 2
    assert done.err.startswith("error: cannot write file/out.jsonl: ")
