"""Folders that are no model, are damaged, or mean harm: one sentence each, and nothing is written."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptwright.errors import CheckpointError, GptwrightError, Unsupported
from gptwright.interop.importing import import_run, read

from .peers import CASES, peer, saved


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return saved(peer(*CASES["llama"]), tmp_path_factory.mktemp("llama"))


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def change(folder, **words):
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in {**config, **words}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def tensors(folder, **changed):
    found = load_file(folder / "model.safetensors")
    found = {name: changed.get(name.replace(".", "_"), tensor) for name, tensor in found.items()}
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, folder / "model.safetensors")


def index(folder, **files):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    names = dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {**names, **files}}))


def refused(folder, *words, error: type[GptwrightError] = CheckpointError):
    with pytest.raises(error) as caught:
        import_run(folder, folder.parent / "run")
    assert not (folder.parent / "run").exists()
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert "\n" not in said
    assert len(said) < 700


def test_no_folder_at_all(tmp_path):
    refused(tmp_path / "none", "there is no folder or file")


def test_not_a_model_folder(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/poem.txt").write_text("roses")
    refused(tmp_path / "x", "not a model folder", "poem.txt")


def test_an_archive(tmp_path):
    (tmp_path / "model.zip").write_bytes(b"PK\x03\x04")
    refused(tmp_path / "model.zip", "archive", "unpack")


def test_config_without_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights", "model.safetensors")


def test_a_pickle_where_safetensors_was_expected(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.ones(1)}, folder / "pytorch_model.bin")
    refused(folder, "pickle", "save_pretrained")
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    refused(folder, "pickle under the name", "save_pretrained")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_safetensors(folder, keep):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:keep])
    refused(folder, "damaged or cut short", f"{keep} bytes")


def test_a_header_that_claims_more_than_there_is(folder):
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    refused(folder, "damaged or cut short")


def test_a_missing_shard(folder):
    index(folder, **{"lm_head.weight": "model-00002-of-00002.safetensors"})
    refused(folder, "lacks model-00002-of-00002.safetensors")


def test_an_index_that_lies(folder):
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    index(folder, **{"model.unknown": "part.safetensors"})
    refused(folder, "model.unknown", "not there")


@pytest.mark.parametrize("path", ["../../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "..\\x", 5])
def test_an_index_that_points_outside(folder, path):
    index(folder, **{"lm_head.weight": path})
    refused(folder, "only files beside it are read")


@pytest.mark.parametrize("text", ["", "[1]", "{", '"x"', "[" * 100000])
def test_settings_that_are_no_settings(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json")


def test_a_missing_tensor_is_named(folder):
    tensors(folder, model_layers_1_mlp_up_proj_weight=None)
    refused(folder, "lacks model.layers.1.mlp.up_proj.weight")


def test_an_extra_tensor_is_named(folder):
    found = load_file(folder / "model.safetensors")
    save_file({**found, "model.layers.0.self_attn.gate": torch.ones(3)}, folder / "model.safetensors")
    refused(folder, "has model.layers.0.self_attn.gate", "no place")


def test_a_bias_that_the_settings_do_not_know_is_not_dropped(folder):
    found = load_file(folder / "model.safetensors")
    save_file({**found, "model.layers.0.self_attn.q_proj.bias": torch.ones(24)}, folder / "model.safetensors")
    refused(folder, "q_proj.bias")


def test_another_shape(folder):
    tensors(folder, model_norm_weight=torch.ones(25))
    refused(folder, "model.norm.weight", "(25,)", "(24,)")


def test_quantized_weights(folder):
    tensors(folder, lm_head_weight=torch.ones(61, 24, dtype=torch.int8))
    refused(folder, "I8", "quantized", error=Unsupported)
    change(folder, quantization_config={"bits": 4})
    refused(folder, "quantization_config", error=Unsupported)


def test_an_architecture_that_is_not_known(folder):
    change(folder, model_type="lama", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("import os; os._exit(3)")
    refused(folder, "'lama'", "did you mean 'llama'", "never runs", error=Unsupported)
    change(folder, model_type=...)
    refused(folder, "no model_type")


def test_everything_that_is_missing_is_listed(folder):
    change(folder, hidden_act="xielu", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    refused(folder, "xielu", "dynamic", error=Unsupported)


@pytest.mark.parametrize("words", [{"hidden_size": "big"}, {"num_hidden_layers": 0}, {"num_attention_heads": -1}])
def test_values_that_are_nonsense(folder, words):
    change(folder, **words)
    refused(folder, next(iter(words)), "whole number above 0")


def test_sizes_that_the_files_cannot_have(folder):
    change(folder, num_hidden_layers=10**9)
    refused(folder, "1000000000", "tensors in all")


def test_heads_that_do_not_divide(folder):
    change(folder, num_attention_heads=5, num_key_value_heads=5)
    refused(folder, "head", error=GptwrightError)


def test_rope_that_is_nonsense(folder):
    change(folder, rope_parameters={"rope_type": "yarn", "factor": "x", "rope_theta": 1e4})
    refused(folder, error=GptwrightError)


def test_a_padded_vocabulary_is_kept_and_said(folder):
    rows = torch.randn(64, 24)
    tensors(folder, model_embed_tokens_weight=rows, lm_head_weight=rows.clone())
    found = read(folder)
    assert found.config.vocab_size == 64
    assert any("61" in note and "64" in note for note in found.notes)


def test_a_tied_head_that_is_another_matrix_stays_apart(folder):
    change(folder, tie_word_embeddings=True)
    found = read(folder)
    assert found.config.tie_embeddings is False
    assert any("stay apart" in note for note in found.notes)


def test_surplus_tensors_are_named_not_hidden(folder):
    found = load_file(folder / "model.safetensors")
    more = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(3) for n in range(3)}
    save_file({**found, **more}, folder / "model.safetensors")
    assert read(folder).surplus == sorted(more)


def test_words_that_are_not_understood_are_named(folder):
    change(folder, attention_multiplier=0.5, some_flag=False)
    assert read(folder).unknown == ["attention_multiplier"]


def test_checkpoints_of_the_model_without_its_head(tmp_path):
    theirs = peer(*CASES["gpt2"])
    saved(theirs.transformer, tmp_path / "bare")  # as the hub's own gpt2: no "transformer." before the names
    assert not any(name.startswith("transformer.") for name in load_file(tmp_path / "bare/model.safetensors"))
    assert read(tmp_path / "bare").config.tie_embeddings


def test_several_shards(tmp_path):
    theirs = peer(*CASES["mixtral"])
    saved(theirs, tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    whole = saved(theirs, tmp_path / "whole")
    one, many = read(whole), read(tmp_path / "model")
    assert all(torch.equal(one.tensors[name], many.tensors[name]) for name in one.tensors)
    (sorted((tmp_path / "model").glob("*.safetensors"))[1]).unlink()
    refused(tmp_path / "model", "lacks model-00002-of")


def test_nothing_half_written_remains_where_there_is_no_room(folder, tmp_path):
    (tmp_path / "full").mkdir(mode=0o500)
    if os.access(tmp_path / "full", os.W_OK):
        pytest.skip("this user may write everywhere (root); it runs as any other user")
    with pytest.raises(GptwrightError, match=r"cannot be written|could not be written"):
        import_run(folder, tmp_path / "full" / "run")


def test_code_in_the_settings_of_an_export_is_not_imported(folder, tmp_path, monkeypatch):
    from gptwright.interop.hf_export import export_hf
    from gptwright.interop.importing import from_pretrained
    from gptwright.interop.trained import Trained

    with pytest.warns(UserWarning, match="tokenizer"):
        model = from_pretrained(folder)
    export_hf(Trained.of_model(model), tmp_path / "ours", family="gptwright")
    change(tmp_path / "ours", gptwright={**model.config.to_dict(), "attention": {"type": "evil:Attention"}})
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    refused(tmp_path / "ours", "evil:Attention", "trust", error=GptwrightError)
