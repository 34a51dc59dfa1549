import io
import json
import os
import pty
import signal
import subprocess
import sys

import pytest

import gptwright as gw


def test_text_goes_to_stdout_prompt_first(gptwright, trained):
    done = gptwright("generate", trained, "--prompt", "The cat", "--max-new-tokens", 9, "--seed", 1)
    assert (done.code, done.err) == (0, "")
    expected = gw.generate(gw.load(trained), "The cat", max_new_tokens=9, seed=1)
    assert done.out == expected + "\n"
    assert len(expected) == len("The cat") + 9


def test_json_is_one_object(gptwright, trained):
    arguments = ["generate", trained, "--prompt", "The", "--max-new-tokens", 9, "--seed", 1]
    found = gptwright(*arguments, "--json").json
    assert found["text"] + "\n" == gptwright(*arguments).out
    assert (found["prompt"], found["new_tokens"]) == ("The", 9)
    assert found["tokens_per_second"] == pytest.approx(9 / found["seconds"])


def test_it_streams(trained):
    command = [sys.executable, "-m", "gptwright", "generate", str(trained), "--prompt", "The", "--overflow", "slide"]
    process = subprocess.Popen([*command, "--max-new-tokens", "200000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert len(process.stdout.read(200)) == 200
    assert process.poll() is None  # it is far from done, and we have read what it wrote
    process.kill()
    process.communicate()


def test_a_checkpoint_of_the_run(gptwright, trained):
    (checkpoint,) = (trained / "checkpoints").glob("step-*")
    assert gptwright("generate", checkpoint, "--prompt", "The", "--max-new-tokens", 2).code == 0


def test_greedy_is_temperature_zero(gptwright, trained):
    arguments = ["generate", trained, "--prompt", "The", "--max-new-tokens", 9]
    first, *others = (gptwright(*arguments, *more).out for more in (["--greedy"], ["--temperature", 0], ["--top-k", 1]))
    assert others == [first, first]


def test_several_samples_differ_and_repeat(gptwright, trained):
    arguments = ["generate", trained, "--prompt", "A", "--max-new-tokens", 15, "--num-samples", 3, "--seed", 5]
    found = gptwright(*arguments, "--json").json
    texts = [each["text"] for each in found["samples"]]
    assert len(set(texts)) == 3
    assert found["text"] == texts[0]
    assert found["new_tokens"] == 45
    assert gptwright(*arguments).out == "\n\n---\n".join(texts) + "\n"


@pytest.mark.parametrize("arguments", [["--prompt", "-"], ["--prompt-file", "-"], ["--prompt-file", "prompt.txt"]])
def test_the_prompt_from_elsewhere(gptwright, trained, workshop, monkeypatch, arguments):
    (workshop / "prompt.txt").write_text("A dog")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"A dog")))
    assert gptwright("generate", trained, *arguments, "--max-new-tokens", 1).out.startswith("A dog")


def test_no_prompt_begins_a_document_where_documents_end(gptwright, workshop):
    (workshop / "many.jsonl").write_text('{"text": "The cat sat."}\n{"text": "A dog barked."}\n' * 60)
    assert gptwright("train", "tiny.yaml", "data.source=many.jsonl", "--quiet").code == 0
    assert gptwright("generate", "runs/tiny").code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the prompt is empty and this tokenizer has no token that begins a text; give a prompt"),
        (["--prompt", "a", "--prompt-file", "b"], "--prompt and --prompt-file were both given; give one of the two"),
        (["--prompt-file", "b"], "the prompt file b cannot be read: No such file or directory; give one that can"),
        (["--prompt", "A", "--greedy", "--temperature", "1"], "--greedy takes the likeliest token and --temperature 1"),
        (["--prompt", "A", "--top-k", "0"], "top_k is 0 and must be at least 1"),
        (["--prompt", "A", "--top-p", "1.5"], "top_p is 1.5 and must be above 0 and at most 1"),
        (["--prompt", "A", "--num-samples", "0"], "--num-samples is 0 and must be at least 1"),
        (["--prompt", "A", "--max-new-tokens", "-3"], "max_new_tokens is -3 and cannot be negative"),
        (["--prompt", "-", "--prompt", "-"], "--prompt - was given twice, and stdin can be read once; give it once"),
        (
            ["--prompt", "A", "--stop-token", "<|x|>"],
            "--stop-token '<|x|>' is no token of this char tokenizer; give one",
        ),
        (["--prompt", "A", "--logit-bias", "a"], "--logit-bias a has no meaning; write ID=VALUE or 'TEXT'=VALUE"),
        (["--prompt", "A", "--logit-bias", "at=1"], "--logit-bias: 'at' is 2 tokens ["),
        (["--prompt", "A", "--stop-id", "999"], "stop_ids"),
        (["--prompt", "A", "--overflow", "wrap"], "overflow is 'wrap' and must be 'refuse' or 'slide'"),
        (["--prompt", "A", "--rows", "0"], "rows is 0 and must be at least 1"),
        (
            ["--prompt", "A", "--beams", "2", "--seed", "1"],
            "beams looks for the likeliest text and knows nothing of seed",
        ),
        (["--prompt", "A", "--beams", "2", "--num-samples", "3"], "n is 3 and beams 2"),
        (["--prompt", "A", "--length-penalty", "2"], "--length-penalty belongs to beam search; give --beams too"),
        (["--prompt", "A", "--logprobs", "2"], "--logprobs shows in --json, --out and --show-probs; add one of them"),
        (["--prompt", "A", "--draft", "nowhere"], "there is no folder nowhere; give a run folder"),
        (["--prompt", "A", "--json-schema", "no.json"], "the schema no.json cannot be read: No such file"),
        (["--prompt", "A", "--max-new-tokens", "20"], "the prompt has 1 tokens and 20 new"),
        (["--prompt", "Żaba"], "the character 'Ż' (U+017B) at position 0 is not among the"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_text(gptwright, trained, arguments, sentence):
    done = gptwright("generate", trained, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")
    assert done.err.count("\n") == 1


def test_a_prompt_file_that_is_not_utf8(gptwright, trained, workshop):
    (workshop / "latin.txt").write_bytes(b"caf\xe9")
    done = gptwright("generate", trained, "--prompt-file", "latin.txt")
    assert done.code == 2
    assert done.err == "error: the prompt in latin.txt is not UTF-8: byte 3 is 0xe9; save it as UTF-8\n"


@pytest.mark.parametrize(
    ("text", "sentence"), [("[1]", "holds list, but must be one JSON object"), ("{", "is not JSON")]
)
def test_a_schema_that_is_none(gptwright, trained, workshop, text, sentence):
    (workshop / "schema.json").write_text(text)
    done = gptwright("generate", trained, "--prompt", "A", "--json-schema", "schema.json")
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err


def test_several_prompts_follow_each_other(gptwright, trained):
    how = ["--max-new-tokens", 5, "--seed", 2]
    alone = [gptwright("generate", trained, "--prompt", prompt, *how).out for prompt in ("The", "A dog")]
    both = gptwright("generate", trained, "--prompt", "The", "--prompt", "A dog", *how)
    assert both.out == "\n---\n".join(alone)
    found = gptwright("generate", trained, "--prompt", "The", "--prompt", "A dog", *how, "--json").json
    assert [each["prompt"] for each in found["samples"]] == ["The", "A dog"]
    assert [each["text"] + "\n" for each in found["samples"]] == alone


def test_what_stops_and_what_is_shunned(gptwright, trained):
    model = gw.load(trained)
    how = {"max_new_tokens": 12, "seed": 2}
    whole = gw.generate(model, "The", **how, details=True)
    arguments = ["generate", trained, "--prompt", "The", "--max-new-tokens", 12, "--seed", 2]
    letter, id = whole.text[4], whole.ids[4]
    cut = "The" + whole.text[: whole.text.index(letter)] + "\n"
    for option in (["--stop", letter], ["--stop-id", id], ["--stop-token", letter]):
        assert gptwright(*arguments, *option).out == cut
    expected = gw.generate(model, "The", **how, logit_bias={id: -50.0})
    for bias in (f"{id}=-50", f"'{letter}'=-50"):
        assert gptwright(*arguments, "--logit-bias", bias).out == expected + "\n"
    penalties = {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.5, "min_p": 0.05}
    options = [part for name, value in penalties.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert gptwright(*arguments, *options).out == gw.generate(model, "The", **how, **penalties) + "\n"


def test_a_stop_text_may_be_written_with_escapes(gptwright, trained):
    arguments = ["generate", trained, "--prompt", "A", "--max-new-tokens", 9, "--logit-bias", r"'\n'=60", "--greedy"]
    assert gptwright(*arguments).out == "A" + "\n" * 9 + "\n"
    assert gptwright(*arguments, "--stop", r"\n\n\n").out == "A\n"
    found = gptwright(*arguments, "--stop", r"\n\n\n", "--json").json
    assert (found["finish_reason"], found["new_tokens"]) == ("stop", 3)


def test_beams_find_the_same_as_the_library(gptwright, trained):
    arguments = ["generate", trained, "--prompt", "The", "--max-new-tokens", 6, "--beams", 3]
    expected = gw.generate(gw.load(trained), "The", max_new_tokens=6, beams=3, n=2)
    assert gptwright(*arguments).out == expected[0] + "\n"
    assert gptwright(*arguments, "--num-samples", 2).out == "\n---\n".join(text + "\n" for text in expected)
    assert gptwright(*arguments, "--json").json["text"] == expected[0]


def test_log_probabilities_in_json(gptwright, trained):
    arguments = ["generate", trained, "--prompt", "The", "--max-new-tokens", 4, "--seed", 1, "--json", "--logprobs", 2]
    tokens = gptwright(*arguments).json["tokens"]
    assert len(tokens) == 4
    assert all(set(token) == {"id", "text", "logprob", "top"} and len(token["top"]) == 2 for token in tokens)


def _start(trained, *arguments, **how):
    command = [sys.executable, "-m", "gptwright", "generate", str(trained), "--prompt", "The", "--overflow", "slide"]
    command += ["--max-new-tokens", "10000000", *arguments]
    return subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how})


def test_ctrl_c_prints_what_there_is(trained):
    process = _start(trained)
    begun = process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert begun.startswith(b"The")
    assert rest.endswith(b"\n")


PRESS = """
import os, signal, sys
from gptwright.cli.main import main
from gptwright.generate.engine import Engine

step, left = Engine.step, [int(sys.argv[1])]

def pressed(self):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGINT)
    return step(self)

Engine.step = pressed
sys.exit(main(sys.argv[2:]))
"""
"""A real process that presses Ctrl-C itself, after so many steps: no clock decides what is there by then."""


def _pressed(steps, *arguments):
    command = [sys.executable, "-c", PRESS, str(steps), "generate", *(str(each) for each in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_ctrl_c_with_json_prints_the_part(trained):
    how = ["--prompt", "The", "--prompt", "A", "--overflow", "slide", "--max-new-tokens", 10**7, "--seed", 1]
    done = _pressed(30, trained, *how, "--json")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert found["finish_reason"] == "cancelled"
    assert 10 < found["samples"][0]["new_tokens"] <= 30
    whole = gw.generate(gw.load(trained), ["The", "A"], max_new_tokens=40, seed=1, overflow="slide")
    assert [text.startswith(each["text"]) for text, each in zip(whole, found["samples"], strict=True)] == [True, True]


def test_ctrl_c_with_a_picture_draws_the_part(trained, workshop):
    how = ["--prompt", "The", "--overflow", "slide", "--max-new-tokens", 10**7]
    done = _pressed(20, trained, *how, "--show-probs")
    assert done.returncode == 130
    assert 10 < len(done.stdout.splitlines()) <= 21  # with a head
    assert (workshop / "probabilities.html").stat().st_size > 1000


def test_show_probs_prints_a_table_and_writes_a_page(gptwright, trained, workshop):
    arguments = ["generate", trained, "--prompt", "The", "--max-new-tokens", 4, "--seed", 1, "--show-probs"]
    done = gptwright(*arguments)
    lines = done.out.splitlines()
    assert lines[0].split() == ["token", "p", "alternatives"]
    assert len(lines) == 5
    assert all(line.count("%") == 6 for line in lines[1:])
    assert done.err == "wrote probabilities.html\n"
    assert "seed" in (workshop / "probabilities.html").read_text("utf-8")
    assert gptwright(*arguments[:-1], "--page", "other.html", "--json").json["tokens"]
    assert (workshop / "other.html").exists()
    refused = gptwright(*arguments, "--page", "no/such/place.html")
    assert refused.code == 2
    assert refused.err.startswith("error: cannot write 'no/such/place.html': No such file or directory; check")


def test_show_probs_colours_a_terminal(trained):
    ours, theirs = pty.openpty()
    process = _start(
        trained, "--show-probs", "--max-new-tokens", "6", stdout=theirs, env={**os.environ, "TERM": "xterm-256color"}
    )
    os.close(theirs)
    out = b""
    try:
        while part := os.read(ours, 4096):
            out += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.count(b"\x1b[30;48;5;") >= 6
    assert b"probability:" in out


MANY = {
    "no out": (["--prompts", "p.jsonl"], "--prompts holds many prompts, and their answers go to a file; name it with"),
    "no prompts": (["--out", "o.jsonl"], "--out says where the answers to --prompts go; give --prompts too"),
    "a prompt too": (["--prompts", "p.jsonl", "--out", "o", "--prompt", "A"], "--prompts and --prompt were both given"),
    "beams too": (["--prompts", "p.jsonl", "--out", "o", "--beams", "2"], "--prompts and --beams were both given"),
    "a picture too": (["--prompts", "p.jsonl", "--out", "o", "--page", "x"], "--prompts and --show-probs were both"),
    "no such file": (["--prompts", "no.jsonl", "--out", "o.jsonl"], "the prompt file no.jsonl cannot be read: No such"),
}


@pytest.mark.parametrize("name", MANY)
def test_options_that_do_not_go_together(gptwright, trained, name):
    arguments, sentence = MANY[name]
    done = gptwright("generate", trained, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")
