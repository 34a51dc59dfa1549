import pytest

import gptwright as gw


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
