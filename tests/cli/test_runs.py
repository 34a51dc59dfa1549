"""`gptwright runs`: a table, or one JSON object."""

import pytest


def test_all_runs_below_runs_are_listed(gptwright, trained):
    (trained.parent / "broken").mkdir()
    (trained.parent / "broken" / "config.yaml").write_text("a: [1, 2\nb: }")
    done = gptwright("runs")
    assert done.code == 0
    heads, broken, tiny = done.out.splitlines()
    assert heads.split()[:2] == ["run", "state"]
    assert broken.split()[:2] == ["broken", "broken"]
    assert tiny.split()[:2] == ["tiny", "finished"]
    for piece in ("1x16 softmax", "adamw", "4/4", "256"):
        assert piece in tiny
    assert done.err == "broken: config.yaml holds no settings that can be read\n"


def test_json_holds_every_field(gptwright, trained):
    (run,) = gptwright("runs", trained, "--json").json["runs"]
    assert (run["state"], run["step"], run["steps"], run["tokens"]) == ("finished", 4, 4, 256)
    assert run["params"] > 1000
    assert run["val_loss"] >= run["best_val_loss"] > 0
    assert run["precision"] in ("fp32", "bf16")


def test_no_runs_are_said(gptwright, workshop):
    done = gptwright("runs")
    assert (done.code, done.out) == (0, "")
    assert done.err == "there are no runs below runs; gptwright train CONFIG makes one\n"
    assert gptwright("runs", "--json").json == {"runs": []}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent"], "error: there is no folder 'absent' to look for runs in"),
        (["--sort", "los"], "error: runs cannot be sorted by 'los'; name one of name, state"),
    ],
)
def test_mistakes_are_one_sentence(gptwright, workshop, arguments, sentence):
    done = gptwright("runs", *arguments)
    assert done.code == 2
    assert done.err.startswith(sentence)
