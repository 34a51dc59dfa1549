import io
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
    command = [sys.executable, "-m", "gptwright", "generate", str(trained), "--prompt", "The", "--max-new-tokens"]
    process = subprocess.Popen([*command, "200000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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
    arguments = ["generate", trained, "--prompt", "A", "--max-new-tokens", 20, "--num-samples", 3, "--seed", 5]
    found = gptwright(*arguments, "--json").json
    texts = [each["text"] for each in found["samples"]]
    assert len(set(texts)) == 3
    assert found["text"] == texts[0]
    assert found["new_tokens"] == 60
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
