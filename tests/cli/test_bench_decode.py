import pytest

import gptwright as gw
from gptwright.generate import bandwidth

SETTINGS = "model: {vocab_size: 9, d_model: 8, n_layers: 1, max_seq_len: 16, attention: {type: softmax, n_heads: 2}}"


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch):
    monkeypatch.setattr(bandwidth, "SIZE", 1 << 20)


def test_json_has_every_figure(gptwright, trained):
    found = gptwright("bench-decode", trained, "--rows", "1,3", "--json").json
    assert found["params"] == gw.load(trained).num_params()
    assert found["dtypes"] == ["float32"]
    one, three = found["speeds"]
    assert (one["rows"], three["rows"]) == (1, 3)
    assert (one["prompt_tokens"], one["new_tokens"]) == (8, 8)
    assert three["tokens_per_second"] == pytest.approx(3 / three["step"]["median"])
    assert one["fraction"] == pytest.approx(one["bytes_per_step"] / one["step"]["median"] / one["bandwidth"])
    assert three["state_bytes"] == 3 * one["state_bytes"]


def test_people_read_a_table(gptwright, trained):
    done = gptwright("bench-decode", trained, "--prompt-tokens", 4, "--new-tokens", 6, "--precision", "bf16")
    assert done.code == 0, done.err
    assert "in bfloat16" in done.out
    assert "4 tokens, 6 new ones" in done.out
    for word in ("first token", "tokens/s", "of bandwidth", "read bandwidth"):
        assert word in done.out


def test_random_weights_of_settings(gptwright, workshop):
    (workshop / "small.yaml").write_text(SETTINGS)
    found = gptwright("bench-decode", "--preset", "small.yaml", "--threads", 1, "--new-tokens", 5, "--json").json
    assert (found["model"], found["threads"]) == ("small.yaml", 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "what to measure is RUN or --preset NAME, and neither was given; give one of the two"),
        (["runs/tiny", "--preset", "tiny"], "what to measure is RUN or --preset NAME, and both were given"),
        (["runs/tiny", "--rows", "1,x"], "--rows is '1,x' and must be numbers with commas between, as in 1,4,16"),
        (["runs/tiny", "--rows", "0"], "--rows is '0', and each number must be at least 1"),
        (["runs/tiny", "--threads", "0"], "--threads is 0 and must be at least 1"),
        (["runs/tiny", "--precision", "fp8"], "precision is 'fp8' and must be one of fp32, bf16"),
        (["runs/tiny", "--new-tokens", "1"], "new_tokens is 1 and must be at least 2"),
        (["--preset", "tiny.yaml"], "tiny.yaml does not say model.vocab_size"),
    ],
)
def test_a_mistake_is_one_sentence(gptwright, trained, arguments, sentence):
    done = gptwright("bench-decode", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.removeprefix("measuring; other work on this machine would slow it down\n").startswith(
        f"error: {sentence}"
    )
