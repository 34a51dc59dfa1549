import pytest

import gptwright as gw


def test_a_quantized_folder_is_used_like_a_run(gptwright, trained):
    done = gptwright("quantize", trained, "--quiet")
    assert (done.code, done.err) == (0, "")
    lines = dict(line.split("  ", 1) for line in done.out.splitlines())
    assert lines["written"].strip() == "runs/tiny-int8"
    assert lines["bits"].strip() == "8"
    assert "before" in lines["weights"]
    assert lines["perplexity"].strip().endswith("%)")
    assert gptwright("eval", "runs/tiny-int8", "--json").json["tokens"] == 431
    told = gptwright("generate", "runs/tiny-int8", "--prompt", "The", "--max-new-tokens", "4", "--json")
    assert told.json["text"].startswith("The")


def test_json_has_what_changed(gptwright, trained):
    found = gptwright("quantize", trained, "--bits", "4", "--out", "small", "--json", "--quiet").json
    assert set(found) == {
        "folder",
        "bits",
        "bytes_before",
        "bytes_after",
        "perplexity_before",
        "perplexity_after",
        "perplexity_change",
        "unmeasured",
    }
    assert (found["folder"], found["bits"], found["unmeasured"]) == ("small", 4, None)
    assert found["perplexity_before"] == gw.evaluate(gw.load(trained)).perplexity
    assert found["perplexity_change"] == found["perplexity_after"] / found["perplexity_before"] - 1
    assert found["bytes_after"] < found["bytes_before"]


def test_other_text_to_measure_on(gptwright, trained, workshop):
    (workshop / "other.txt").write_text("A cat barked at the moon.\n" * 40)
    found = gptwright("quantize", trained, "--data", "other.txt", "--json", "--quiet").json
    assert found["perplexity_before"] == gw.evaluate(gw.load(trained), data={"source": "other.txt"}).perplexity


def test_without_data_a_sentence(gptwright, workshop):
    assert gptwright("train", "tiny.yaml", "--run", "runs/r", "--quiet").code == 0
    (workshop / "text.txt").unlink()
    done = gptwright("quantize", "runs/r", "--quiet")
    assert done.code == 0
    assert done.err.startswith("perplexity could not be measured: data.source 'text.txt' does not exist")
    assert done.err.endswith("--data SOURCE measures it on other text\n")
    assert "perplexity" not in done.out
    assert gw.load("runs/r-int8").bits == 8


def test_a_quantized_folder_is_no_run(gptwright, trained):
    assert gptwright("quantize", trained, "--quiet").code == 0
    listed = gptwright("runs", "--json").json
    assert [each["name"] for each in listed["runs"]] == ["tiny"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["runs/nothing"], "there is no folder runs/nothing; give a run folder such as runs/demo"),
        (["runs/tiny", "--bits", "3"], "bits is 3, and weights are packed to 8 or 4 bits; choose one of the two"),
        (["runs/tiny", "--data", "nothing.txt"], "data.source 'nothing.txt' does not exist"),
        (["runs/tiny", "--out", "runs/tiny"], "runs/tiny exists already; choose another folder with --out"),
        (["runs/tiny", "--out", "runs/tiny", "--force"], "runs/tiny is not a quantized folder, and --force replaces"),
    ],
)
def test_a_mistake_is_one_sentence(gptwright, trained, arguments, sentence):
    done = gptwright("quantize", *arguments, "--quiet")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")
    assert done.err.count("\n") == 1


def test_a_quantized_folder_is_not_quantized_or_trained(gptwright, trained):
    assert gptwright("quantize", trained, "--quiet").code == 0
    again = gptwright("quantize", "runs/tiny-int8", "--quiet")
    assert again.code == 2
    assert again.err.startswith("error: runs/tiny-int8 holds weights of 8 bits, which can generate and be evaluated")
    resumed = gptwright("train", "--resume", "--run", "runs/tiny-int8", "--quiet")
    assert resumed.code == 2
    assert "runs/tiny-int8 holds saved weights and is not a run" in resumed.err
