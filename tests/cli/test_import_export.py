"""`gptwright import` and `gptwright export`, as typed."""

import json
import shutil

import pytest
import transformers

transformers.logging.set_verbosity_error()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Llama with random weights, and a tokenizer, as a folder of transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    config = transformers.LlamaConfig(
        vocab_size=272, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=256,
    )  # fmt: skip
    transformers.utils.logging.disable_progress_bar()
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    library = Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator([], trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=alphabet))
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, eos_token="</s>").save_pretrained(folder)
    return folder


def test_in_used_and_out(gptwright, workshop, model):
    done = gptwright("import", model, "--out", "runs/in")
    assert done.code == 0
    lines = dict(line.split("  ", 1) for line in done.out.splitlines())
    assert lines["family"].strip() == "llama"
    assert lines["tensors"].strip() == "21: 21 used"
    assert lines["tokenizer"].strip() == "272 ids"
    assert done.err == "note: the vocabulary is padded: the tokenizer has 257 ids, and the embedding 272 rows\n"
    told = gptwright("generate", "runs/in", "--prompt", "The", "--max-new-tokens", "4", "--json")
    assert told.json["text"].startswith("The")
    (workshop / "other.txt").write_text("A cat barked at the moon.\n" * 9)
    found = gptwright("export", "runs/in", "out", "--json").json
    assert (found["model_type"], found["needs_code"], found["tensors"]) == ("llama", False, 21)
    assert (workshop / "out/model.safetensors").read_bytes() != b""
    assert json.loads((workshop / "out/config.json").read_text())["eos_token_id"] == 256


def test_every_tensor_can_be_listed(gptwright, workshop, model):
    done = gptwright("import", model, "--out", "runs/listed", "--tensors")
    assert "model.embed_tokens.weight -> token_embedding.weight" in done.out.splitlines()
    assert sum(" -> " in line for line in done.out.splitlines()) == 21


def test_json_accounts_for_everything(gptwright, workshop, model):
    found = gptwright("import", model, "--out", "runs/json", "--json").json
    assert (found["family"], found["tensors_used"], found["tensors_without_meaning"]) == ("llama", 21, [])
    assert (found["settings_not_understood"], found["dtype"], found["run"]) == ([], "float32", "runs/json")
    assert found["model"]["feed_forward"]["d_ff"] == 24


def test_the_name_of_the_source_is_the_default(gptwright, workshop, model):
    assert gptwright("import", model).code == 0
    assert (workshop / "runs/tiny-llama/config.yaml").is_file()


def test_mistakes_get_one_sentence(gptwright, workshop, model, trained):
    (workshop / "taken").mkdir()
    (workshop / "taken/file").write_text("mine")
    cases = [
        (("import", "no/such/thing"), "there is no folder or file no/such/thing"),
        (("import", trained), f"{trained} is a run of gptwright already"),
        (("import", model, "--out", "taken"), "taken exists already and is not empty"),
        (("import", model, "--out", "x", "--tokenizer", "none"), "none"),
        (("export", trained), "there is no place to export to"),
        (("export", trained, "taken"), "taken exists already and is not empty"),
        (("export", trained, "x", "--to", "onnx"), "to is 'onnx'"),
        (("export", trained, "x", "--family", "llama2"), "there is no family 'llama2'"),
        (("export", trained, "x", "--dtype", "int8"), "dtype is 'int8'"),
        (("export", trained, "x", "--max-shard-size", "big"), "max_shard_size is 'big'"),
        (("export", trained, "--to", "gguf", "--push", "me/it"), "--push sends what --to hf writes"),
        (("export", "nowhere", "x"), "there is no folder nowhere"),
    ]
    for words, said in cases:
        done = gptwright(*words)
        assert (done.code, done.out) == (2, ""), words
        assert done.err.startswith("error: "), done.err
        assert said in done.err
        assert done.err.count("\n") == 1
    assert not (workshop / "x").exists()


def test_gguf_is_one_file(gptwright, workshop, model):
    pytest.importorskip("gguf", reason="comes with gptwright[gguf]")
    assert gptwright("import", model, "--out", "runs/g").code == 0
    found = gptwright("export", "runs/g", "files", "--to", "gguf", "--dtype", "f32", "--json").json
    assert found["file"].endswith("files/g-f32.gguf")
    assert (workshop / "files/g-f32.gguf").read_bytes()[:4] == b"GGUF"


def test_a_folder_that_is_cut_short(gptwright, workshop, model):
    shutil.copytree(model, workshop / "short")
    (workshop / "short/model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:999])
    done = gptwright("import", "short")
    assert done.code == 2
    assert "short/model.safetensors is damaged or cut short (999 bytes" in done.err
    assert not (workshop / "runs/short").exists()
