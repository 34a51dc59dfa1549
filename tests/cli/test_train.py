import os
import signal
import subprocess
import sys
import time

import pytest

KEYS = {"run", "step", "tokens", "train_seconds", "tokens_per_second", "val_loss", "val_bits_per_byte"}


def test_json_is_one_object_on_stdout_and_progress_goes_to_stderr(gptwright, workshop):
    done = gptwright("train", "tiny.yaml", "train.steps=3", "--json")
    assert done.code == 0, done.err
    assert set(done.json) >= KEYS
    assert (done.json["run"], done.json["step"], done.json["tokens"]) == ("runs/tiny", 3, 192)
    assert "step 3/3" in done.err
    assert {"config.yaml", "metrics.jsonl", "report.html", "summary.json"} <= set(os.listdir("runs/tiny"))


def test_it_ends_with_a_sample_a_curve_and_the_lines_to_type_next(gptwright, commands):
    done = gptwright("train", "tiny.yaml", "--run", "my run")
    assert (done.code, done.out) == (0, "")
    sample, curve, score, then = (
        done.err.index(words) for words in ("sample at step 4", "training loss", "validation loss", "What to type next")
    )
    assert sample < curve < score < then
    generate, evaluate = commands(done.err[then:])
    assert generate[:2] == ["generate", "my run"]
    for arguments in (generate, evaluate):
        assert gptwright(*arguments).code == 0
    assert "my run/report.html" in done.err


def test_quiet_says_nothing(gptwright):
    done = gptwright("train", "tiny.yaml", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--resume", "--run", "runs/tiny", "train.steps=6"],
        ["--resume", "runs/tiny", "train.steps=6"],
        ["tiny.yaml", "--resume", "train.steps=6"],
        ["train.steps=6", "--resume", "--run", "runs/tiny"],
    ],
)
def test_resume_needs_the_run_only(gptwright, arguments):
    assert gptwright("train", "tiny.yaml", "--quiet").code == 0
    done = gptwright("train", *arguments, "--json")
    assert done.code == 0, done.err
    assert done.json["step"] == 6
    assert "resuming runs/tiny at step 4" in done.err


def test_a_saved_run_is_not_trusted_with_code(gptwright, workshop):
    (workshop / "untrusted.py").write_text(
        "from gptwright.nn.attention.softmax import Softmax\n\n\nclass Mine(Softmax):\n    '''Mine.'''\n"
    )
    settings = (workshop / "tiny.yaml").read_text().replace("type: softmax", "type: 'untrusted:Mine'")
    (workshop / "tiny.yaml").write_text(settings)
    assert gptwright("train", "tiny.yaml", "--quiet").code == 0
    done = gptwright("train", "--resume", "--run", "runs/tiny", "train.steps=6")
    assert done.code == 2
    assert "pass --trust-code" in done.err
    assert gptwright("train", "--resume", "--run", "runs/tiny", "train.steps=6", "--trust-code").code == 0
    assert "pass --trust-code" in gptwright("generate", "runs/tiny", "--prompt", "The").err
    assert gptwright("generate", "runs/tiny", "--prompt", "The", "--trust-code").code == 0


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_line_printed_goes_on(gptwright, workshop, commands, number):
    command = [sys.executable, "-m", "gptwright", "train", "tiny.yaml", "train.steps=100000", "train.log_every=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = workshop / "runs" / "tiny" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"step": 3' in metrics.read_text(), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert "of 100,000; everything is saved" in err
    (resume,) = commands(err)
    steps = int(err.split("stopped at step ")[1].split(" of")[0].replace(",", ""))
    done = gptwright(*resume, f"train.steps={steps + 2}", "--json")
    assert done.json["step"] == steps + 2


def wait_for(condition, process):
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
