"""`gptwright plot RUN...`."""

import pytest


def test_it_draws_and_says_where(gptwright, trained, workshop):
    done = gptwright("plot", trained, trained)
    assert (done.code, done.out) == (0, "plots.html\n")
    assert "tiny (2)" in (workshop / "plots.html").read_text("utf-8")


def test_options_reach_the_picture(gptwright, trained, workshop):
    out = workshop / "lr.svg"
    done = gptwright("plot", trained, "--metric", "grad_norm", "--x", "time", "--log", "--out", out, "--json")
    assert done.json == {"plot": str(out), "runs": [str(trained)]}
    picture = out.read_text("utf-8")
    assert "Time, log scale" in picture
    assert "grad_norm" in picture


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent"], "error: there is no run folder 'absent'"),
        (["runs/tiny", "--out", "x.pdf"], "error: 'x.pdf' must end in .html, .svg, .png"),
        (["runs/tiny", "--metric", "los"], "error: none of these runs has logged 'los'; did you mean 'loss'?"),
        (["runs/tiny", "--x", "epochs"], "error: invalid value for '--x'"),
        ([], "error: missing argument 'RUN...'"),
    ],
)
def test_mistakes_are_one_sentence(gptwright, trained, arguments, sentence):
    done = gptwright("plot", *arguments)
    assert done.code == 2
    assert done.err.startswith(sentence)
