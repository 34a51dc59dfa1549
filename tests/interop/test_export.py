"""Our own models, out and in again: of a class of `transformers` where the parts match one, else of ours."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import gptwright as gw
from gptwright.errors import CheckpointError, ConfigError, Unsupported
from gptwright.interop.exporting import export
from gptwright.interop.importing import import_run

SIZES = {"vocab_size": 61, "d_model": 24, "n_layers": 3, "max_seq_len": 32}
SOFTMAX = {"type": "softmax", "n_heads": 4}
RMS = {"type": "rms_norm", "eps": 1e-5}
LLAMA = {"norm": RMS, "position": "rotary", "feed_forward": {"type": "glu", "d_ff": 40}, "attention": SOFTMAX}
NATIVE = {
    "gpt2": {"attention": SOFTMAX, "bias": True, "feed_forward": {"type": "mlp", "activation": "gelu_tanh"}},
    "openai-gpt": {
        "attention": SOFTMAX,
        "bias": True,
        "wiring": "post",
        "feed_forward": {"type": "mlp", "activation": "gelu_tanh"},
    },
    "llama": LLAMA | {"tie_embeddings": False, "attention": SOFTMAX | {"n_kv_heads": 2}},
    "mistral": LLAMA | {"attention": {"type": "local", "n_heads": 4, "window": 5}},
    "qwen2": LLAMA | {"attention": SOFTMAX | {"qkv_bias": True}},
    "qwen3": LLAMA | {"attention": SOFTMAX | {"qk_norm": RMS, "head_dim": 10}},
    "mixtral": LLAMA | {"feed_forward": {"type": "moe", "n_experts": 4, "d_ff": 20}},
    "qwen3_moe": LLAMA
    | {
        "attention": SOFTMAX | {"qk_norm": RMS},
        "blocks": {"dense": {}, "sparse": {"feed_forward": {"type": "moe", "n_experts": 4, "top_k": 1, "d_ff": 20}}},
        "pattern": ["dense", "sparse"],
    },
    "gpt_neox": {
        "attention": SOFTMAX,
        "bias": True,
        "wiring": "parallel_norms",
        "position": {"type": "rotary", "fraction": 0.67},
        "tie_embeddings": False,
    },
    "phi": {
        "attention": SOFTMAX,
        "bias": True,
        "wiring": "parallel",
        "head_bias": True,
        "tie_embeddings": False,
        "position": "rotary",
    },
    "smollm3": LLAMA | {"blocks": {"near": {}, "far": {"position": "none"}}, "pattern": ["near", "near", "far"]},
}
"""By `model_type`: settings of ours that this class of transformers computes."""


def drawn(settings: dict) -> gw.GPT:
    torch.manual_seed(0)
    model = gw.GPT(gw.ModelConfig.from_dict({**SIZES, **settings}))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2) if weight.ndim > 1 else weight.data.add_(0.1 * torch.randn_like(weight))
    return model.eval()


@pytest.mark.parametrize("kind", NATIVE)
@torch.no_grad()
def test_parts_that_match_a_class_become_it(kind, tmp_path):
    ours = drawn(NATIVE[kind])
    facts = export(ours, tmp_path / "out")
    assert (facts["model_type"], facts["needs_code"]) == (kind, False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(theirs).__name__ == facts["architecture"]
    ids = torch.randint(0, 61, (2, 20))
    spread = float(ours(ids).max() - ours(ids).min())
    torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=min(1e-4, 1e-5 * spread), rtol=0)


OTHERS = {
    "scale_norm": LLAMA | {"norm": "scale_norm"},
    "linear": LLAMA | {"attention": {"type": "linear", "n_heads": 4}},
    "sandwich": LLAMA | {"wiring": "sandwich"},
    "layer_scale": LLAMA | {"layer_scale": 0.1},
    "alibi": LLAMA | {"position": "alibi"},
    "shared": LLAMA | {"feed_forward": {"type": "moe", "n_experts": 4, "d_ff": 20, "n_shared": 1}},
    "biased": LLAMA | {"feed_forward": {"type": "moe", "n_experts": 4, "d_ff": 20, "balance": "bias"}},
    "unlike layers": LLAMA | {"blocks": {"a": {}, "b": {"feed_forward": {"type": "glu", "d_ff": 48}}}},
    "gelu": {"attention": SOFTMAX, "bias": True, "wiring": "post", "norm": {"type": "layer_norm", "eps": 1e-6}},
}


@pytest.mark.filterwarnings("ignore:there is no tokenizer")  # no text was read here
@pytest.mark.parametrize("name", OTHERS)
def test_other_parts_bring_their_own_code_and_say_why(name, tmp_path):
    ours = drawn(OTHERS[name])
    facts = export(ours, tmp_path / "out")
    assert facts["needs_code"]
    assert all((" is " in why and " would be " in why) or "parts" in why for why in facts["why"])
    assert (tmp_path / "out/modeling_gptwright.py").is_file()
    back = gw.from_pretrained(tmp_path / "out")
    assert back.config == ours.config
    assert all(torch.equal(tensor, ours.state_dict()[key]) for key, tensor in back.state_dict().items())


def test_a_class_that_does_not_fit_is_refused_with_what_would_have_to_change(tmp_path):
    with pytest.raises(
        Unsupported, match=r"gpt2 cannot be this model: norm.type is 'rms_norm' and would be 'layer_norm'"
    ):
        export(drawn(LLAMA), tmp_path / "out", family="gpt2")
    with pytest.raises(ConfigError, match="no family 'gtp2'"):
        export(drawn(LLAMA), tmp_path / "out", family="gtp2")
    assert not any(tmp_path.iterdir())


def test_our_own_class_may_be_asked_for(tmp_path):
    assert export(drawn(LLAMA), tmp_path / "out", family="gptwright")["needs_code"]


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        export(drawn(LLAMA), tmp_path / "out")
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_types_of_number_and_shards(tmp_path):
    ours = drawn(LLAMA)
    facts = export(ours, tmp_path / "out", dtype="bf16", max_shard_size="10KB")
    assert facts["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 1
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert torch.equal(found["model.norm.weight"], ours.final_norm.weight.detach().bfloat16())
    imported = import_run(tmp_path / "out", tmp_path / "run")
    assert {tensor.dtype for tensor in imported.found.tensors.values()} == {torch.bfloat16}
    assert gw.load(tmp_path / "run").dtype == torch.float32
    again = export(tmp_path / "run", tmp_path / "again")
    assert again["dtype"] == "bfloat16"
    with pytest.raises(ConfigError, match="dtype is 'f8'"):
        export(ours, tmp_path / "no", dtype="f8")
    with pytest.raises(ConfigError, match="to is 'onnx'"):
        export(ours, tmp_path / "no", to="onnx")  # pyright: ignore[reportArgumentType]


TEXT = "It was the best of times, it was the worst of times. " * 60


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    settings = {
        "model": {**LLAMA, "d_model": 24, "n_layers": 2, "max_seq_len": 32, "dropout": 0.1, "init": "xavier_normal"},
        "train": {"steps": 4, "tokens_per_step": 128, "precision": "fp32", "trackers": [], "sample_tokens": 0},
        "data": {"source": str(folder / "text.txt"), "tokenizer": {"type": "bpe", "vocab_size": 280}},
    }
    gw.train(settings, run=folder / "base", progress=False)
    return folder, settings


def losses(folder: Path) -> list[float]:
    rows = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row] + [0.0]


@pytest.mark.parametrize("family", ["llama", "gptwright"])
def test_a_run_that_went_out_and_came_back_trains_on_with_the_same_loss(run, tmp_path, family):
    folder, settings = run
    export(folder / "base", tmp_path / "hf", family=family)
    imported = import_run(tmp_path / "hf", tmp_path / "back")
    assert imported.found.notes == []
    assert gw.load(tmp_path / "back").config == gw.load(folder / "base").config
    assert gw.load(tmp_path / "back").tokenizer.fingerprint == gw.load(folder / "base").tokenizer.fingerprint
    assert gw.evaluate(gw.load(tmp_path / "back")) == gw.evaluate(gw.load(folder / "base"))
    further = {"train": {**settings["train"], "log_every": 1}, "data": settings["data"]}
    for name, base in (("one", folder / "base"), ("two", tmp_path / "back")):
        gw.train({**further, "init_from": str(base)}, run=tmp_path / name, progress=False)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert len(losses(tmp_path / "one")) > 4


def test_an_imported_run_cannot_be_resumed_and_says_how_to_go_on(run, tmp_path):
    folder, _ = run
    export(folder / "base", tmp_path / "hf")
    import_run(tmp_path / "hf", tmp_path / "back")
    with pytest.raises(CheckpointError, match=r"was imported.*init_from="):
        gw.train(run=tmp_path / "back", resume=True, progress=False)


def test_settings_beside_an_export_that_describe_another_model_are_not_believed(run, tmp_path):
    folder, _ = run
    export(folder / "base", tmp_path / "hf")
    file = tmp_path / "hf/gptwright/config.yaml"
    file.write_text(file.read_text().replace("d_ff: 40", "d_ff: 48"))
    found = import_run(tmp_path / "hf", tmp_path / "back").found
    assert found.config.feed_forward.d_ff == 40
    assert any("another model" in note for note in found.notes)


def test_the_card_has_the_measured_numbers_and_nobody_s_folders(run, tmp_path):
    folder, _ = run
    export(folder / "base", tmp_path / "hf")
    card = (tmp_path / "hf/README.md").read_text()
    rows = [json.loads(line) for line in (folder / "base/metrics.jsonl").read_text().splitlines()]
    loss = next(row["val_loss"] for row in reversed(rows) if "val_loss" in row)
    assert f"{loss:.4f}" in card
    assert card.startswith("---\nlibrary_name: transformers")
    assert "text.txt" in card
    assert str(folder) not in card


ALONE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "gptwright":
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from transformers import pipeline
print(pipeline("text-generation", model=sys.argv[1])("It was", max_new_tokens=8, do_sample=False)[0]["generated_text"])
"""


def test_transformers_alone_writes_the_same_text(run, tmp_path):
    folder, _ = run
    export(folder / "base", tmp_path / "hf")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path / "hf")], capture_output=True, text=True, check=True
    )
    model = gw.load(folder / "base")
    assert done.stdout.strip() == gw.generate(model, "It was", max_new_tokens=8, temperature=0).strip()


def test_a_folder_of_transformers_is_no_run_and_the_way_in_is_said(tmp_path):
    export(drawn(LLAMA), tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"model folder of the Hugging Face world; .* gptwright import .*hf"):
        gw.load(tmp_path / "hf")


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(run, tmp_path):
    folder, _ = run
    shutil.copytree(folder / "base", tmp_path / "run")
    newest = tmp_path / "run/checkpoints/step-4"
    shutil.copytree(newest, tmp_path / "run/checkpoints/step-5")
    (tmp_path / "run/checkpoints/step-5/model.safetensors").write_bytes(b"short")
    with pytest.warns(UserWarning, match=r"step-5 is damaged: model.safetensors .*; using step 4 instead"):
        export(tmp_path / "run", tmp_path / "hf")
    assert (tmp_path / "hf/model.safetensors").is_file()
