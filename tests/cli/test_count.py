import pytest

KEYS = {"params", "params_non_embedding", "active_params", "flops_per_token"}


def test_json_of_a_preset(gptwright):
    found = gptwright("count", "gpt2-124m", "--json").json
    assert set(found) >= KEYS
    assert found["params"] == found["active_params"] == 124_439_808
    assert found["params_non_embedding"] == 124_439_808 - (50257 + 1024) * 768
    assert found["flops_per_token"] == 6 * (found["params"] - 1024 * 768 - 121_344) + 12 * 12 * 768 * 1024
    assert found["weight_bytes"] == {"fp32": 497_759_232, "bf16": 248_879_616}
    assert sum(part["params"] for part in found["parts"]) == found["params"]


def test_people_read_a_table_and_totals(gptwright):
    done = gptwright("count", "gpt2-124m")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert ["attention", "softmax", "12", "28,348,416", "22.8", "%", "94,371,840"] in lines
    assert ["parameters", "124,439,808"] in lines
    assert "498 MB in fp32, 249 MB in bf16" in done.out
    assert "…" not in done.out


def test_settings_win_over_the_file(gptwright):
    assert gptwright("count", "gpt2-124m", "model.n_layers=1", "--json").json["params"] == 46_473_216


def test_the_context_changes_flops_and_state(gptwright):
    short, long = (gptwright("count", "gpt2-124m", "--context", n, "--json").json for n in (512, 1024))
    assert long["flops_per_token"] - short["flops_per_token"] == 12 * 12 * 768 * 512
    assert long["state_bytes"] == 2 * short["state_bytes"] == 2 * 12 * 768 * 1024 * 4
    assert short["params"] == long["params"]


def test_a_hybrid_has_a_row_for_each_kind_of_layer(gptwright, workshop):
    (workshop / "hybrid.yaml").write_text(
        "model:\n"
        "  {vocab_size: 65, d_model: 16, n_layers: 3, max_seq_len: 16, pattern: [near, near, far], blocks: {\n"
        "   near: {attention: {type: local, n_heads: 2, window: 8}},\n"
        "   far: {attention: {type: softmax, n_heads: 2}, feed_forward: {type: moe, n_experts: 4, top_k: 1}}}}\n"
    )
    found = gptwright("count", "hybrid.yaml", "--json").json
    rows = [(part["name"], part["kind"], part["copies"]) for part in found["parts"]]
    assert ("attention", "local", 2) in rows
    assert ("feed_forward", "moe", 1) in rows
    assert found["active_params"] < found["params"]


def test_a_run_folder(gptwright, trained):
    found = gptwright("count", trained, "--json").json
    assert (found["vocab_size"], found["context"]) == (20, 16)


@pytest.mark.parametrize(
    ("tokenizer", "size"), [("byte", 256), ("{type: bpe, vocab_size: 300}", 300), ("{type: bpe}", 4096)]
)
def test_a_vocabulary_that_the_settings_tell(gptwright, tokenizer, size):
    done = gptwright("count", "tiny.yaml", f"data.tokenizer={tokenizer}", "--json")
    assert done.json["vocab_size"] == size
    assert f"note: vocab_size is taken as {size:,} from the " in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["tiny.yaml"],
            "model.vocab_size is not set: it comes from the char tokenizer, which learns it from the text; give it for "
            "counting, as in model.vocab_size=65",
        ),
        (
            ["tiny.yaml", "data=null"],
            "model.vocab_size is not set, and there is no data whose tokenizer would tell it; give it, as in "
            "model.vocab_size=4096",
        ),
        (["gpt2-124m", "--context", "0"], "--context is 0 and must be at least 1 token"),
    ],
)
def test_a_mistake_is_one_sentence(gptwright, arguments, sentence):
    done = gptwright("count", *arguments)
    assert (done.code, done.out, done.err) == (2, "", f"error: {sentence}\n")
