"""`gptwright find-lr CONFIG`."""

import pytest


def test_it_suggests_draws_and_leaves_no_run(gptwright, workshop):
    sweep = ("find-lr", "tiny.yaml", "train.precision=fp32", "--min", "1e-4", "--max", "3", "--steps", "25")
    done = gptwright(*sweep)
    assert done.code == 0, done.err
    names = [line.rpartition(" ")[0].strip() for line in done.out.splitlines()]
    assert names == ["to try", "steepest descent", "a tenth of where the loss turns", "the loss turns"]
    assert "try optim.lr=" in done.err
    assert "the curve: find-lr.html" in done.err
    assert "└" in done.err
    assert (workshop / "find-lr.html").is_file()
    assert not (workshop / "runs").exists()
    found = gptwright(*sweep, "--json", "-q", "--out", "again.html").json
    assert f"{found['suggested']:.2g}" == done.out.split()[2]
    assert len(found["lr"]) == len(found["loss"])
    assert found["out"] == "again.html"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--min", "1", "--max", "1e-3"], "error: the sweep would go from 1 to 0.001; --min must be above 0 and below"),
        (["--steps", "5"], "error: 5 steps make no curve; --steps must be 10 or more"),
        (["optim.lr=-1"], "error: "),
    ],
)
def test_mistakes_are_one_sentence(gptwright, workshop, arguments, sentence):
    done = gptwright("find-lr", "tiny.yaml", *arguments)
    assert done.code == 2
    assert done.err.startswith(sentence)
    assert not (workshop / "find-lr.html").exists()
