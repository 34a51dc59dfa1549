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
    row = ["attention", "softmax", "12", "28,348,416", "22.8", "%", "94,371,840", "75.5", "MB", "4.23", "GB"]
    assert row in lines
    assert ["to", "train", "8", "x", "1,024", "fp32", "adamw", "bf16", "adamw"] in lines
    assert ["optimizer", "state", "996", "MB", "996", "MB"] in lines
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


SMALL = "model: {vocab_size: 65, d_model: 32, n_layers: 3, max_seq_len: 64, attention: {type: softmax, n_heads: 2}}\n"


def test_json_has_the_state_and_activations_of_each_part_and_the_memory_of_training(gptwright, workshop):
    (workshop / "small.yaml").write_text(SMALL + "train: {tokens_per_step: 512, micro_batch: 4}\n")
    found = gptwright("count", "small.yaml", "--json").json
    assert sum(part["state_bytes"] for part in found["parts"]) == found["state_bytes"] > 0
    assert all(part["activation_bytes"] is not None for part in found["parts"])
    assert found["activation_precision"] == "fp32"
    fp32, bf16 = found["training_memory"]
    assert [(each["precision"], each["optimizer"], each["micro_batch"]) for each in (fp32, bf16)] == [
        ("fp32", "adamw", 4),
        ("bf16", "adamw", 4),
    ]
    assert fp32["weights"] == fp32["gradients"] == 4 * found["params"]
    assert bf16["working_copy"] == 2 * found["params"]
    assert fp32["optimizer_state"] == pytest.approx(8 * found["params"], rel=0.01)
    assert bf16["activations"] < fp32["activations"] < fp32["peak"]


def test_precisions_optimizers_and_batch_are_a_matter_of_options(gptwright, workshop):
    (workshop / "small.yaml").write_text(SMALL)
    options = ["--precision", "bf16", "--optimizer", "adamw", "--optimizer", "muon", "--batch", "2", "--context", "32"]
    found = gptwright("count", "small.yaml", *options, "--json").json
    adamw, muon = found["training_memory"]
    assert (adamw["optimizer"], muon["optimizer"]) == ("adamw", "muon")
    assert muon["optimizer_state"] < adamw["optimizer_state"]
    assert all((each["micro_batch"], each["context"]) == (2, 32) for each in (adamw, muon))
    more = gptwright("count", "small.yaml", *options, "--batch", "4", "--json").json
    kept = [sum(part["activation_bytes"] for part in each["parts"] if part["layers"][0] >= 0) for each in (found, more)]
    assert kept[1] == 2 * kept[0]


def test_the_settings_own_optimizer_keeps_its_settings_and_what_is_frozen_costs_less(gptwright, workshop):
    (workshop / "small.yaml").write_text(SMALL + "optim: muon\ntrain: {freeze: [attention, feed_forward]}\n")
    frozen = gptwright("count", "small.yaml", "--json").json["training_memory"][0]
    whole = gptwright("count", "small.yaml", "train.freeze=[]", "--json").json["training_memory"][0]
    assert frozen["optimizer"] == whole["optimizer"] == "muon"
    assert frozen["gradients"] < whole["gradients"] / 4


def test_what_cannot_be_foreseen_is_said_to_be_unknown(gptwright):
    done = gptwright("count", "gpt2-124m", "--context", "2048")
    assert done.code == 0
    assert done.err.startswith("note: memory cannot be foreseen: 2048 tokens were given, but learned positions end")
    lines = [line.split() for line in done.out.splitlines()]
    row = next(line for line in lines if line[:1] == ["attention"])
    assert row[-1] == "unknown"
    assert "to train" not in done.out
    assert gptwright("count", "gpt2-124m", "--context", "2048", "--json").json["training_memory"] == []


def test_tables_fit_into_a_hundred_columns(gptwright, workshop):
    done = gptwright("count", "gpt2-124m")
    assert max(map(len, done.out.splitlines())) <= 100


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
        (["gpt2-124m", "--context", "0"], "--context is 0 and must be at least 1"),
        (["gpt2-124m", "--batch", "0"], "--batch is 0 and must be at least 1"),
        (["gpt2-124m", "--precision", "fp8"], "--precision is 'fp8' and must be one of fp32, bf16, fp16"),
        (["gpt2-124m", "--optimizer", "mun"], "--optimizer is 'mun' and must be one of adamw, lion, muon, sgd"),
    ],
)
def test_a_mistake_is_one_sentence(gptwright, arguments, sentence):
    done = gptwright("count", *arguments)
    assert (done.code, done.out, done.err) == (2, "", f"error: {sentence}\n")
