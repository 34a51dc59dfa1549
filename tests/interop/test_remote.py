"""The modeling file that exported folders bring along computes what our own model does, and works without us."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gptwright as gw
from gptwright.interop.remote_export import CODE, shard_bytes, write_remote
from gptwright.interop.trained import Trained
from gptwright.nn.slots import ATTENTION, FEED_FORWARD, NORM, POSITION

transformers = pytest.importorskip("transformers", reason="the exported code is for it: pip install 'gptwright[hf]'")
remote = pytest.importorskip("gptwright.interop.remote.modeling_gptwright")

BASE = {
    "vocab_size": 37,
    "d_model": 16,
    "n_layers": 2,
    "max_seq_len": 96,
    "attention": {"type": "softmax", "n_heads": 4},
    "feed_forward": {"type": "mlp", "d_ff": 20},
    "position": "rotary",
}
EXAMPLES = [
    {slot.kind: {"type": name, **example}}
    for slot in (ATTENTION, FEED_FORWARD, NORM, POSITION)
    for name, part in slot.components().items()
    for example in part.EXAMPLES
]
HYBRID = {
    "n_layers": 3,
    "value_residual": 0.5,
    "blocks": {
        "delta": {"attention": {"type": "gated_delta", "n_heads": 4}},
        "nope": {
            "position": "none",
            "feed_forward": {"type": "moe", "n_experts": 3, "d_ff": 8, "balance": "bias", "balance_weight": 0.01},
        },
        "near": {
            "attention": {"type": "local", "n_heads": 4, "window": 7},
            "position": {"type": "rotary", "theta": 9.0},
        },
    },
    "pattern": ["delta", "nope", "near"],
}
COMBINED = {
    "hybrid": HYBRID,
    "biases": {
        "bias": True,
        "head_bias": True,
        "norm": "layer_norm",
        "wiring": "parallel_norms",
        "position": "learned",
    },
    "sandwich": {"wiring": "sandwich", "layer_scale": 0.3, "residual_scale": "depth", "logit_softcap": 3.0},
    "post": {"wiring": "post", "norm": "scale_norm", "position": "sinusoidal"},
    "parallel": {"wiring": "parallel", "position": {"type": "rotary", "fraction": 0.5}},
    "embedding": {"d_embedding": 12, "tie_embeddings": False, "embedding_norm": "rms_norm", "embedding_scale": "width"},
    "gemma": {
        "attention": {"type": "softmax", "n_heads": 4, "head_dim": 6, "scale": 0.7, "qk_norm": "rms_norm"},
        "norm": {"type": "rms_norm", "unit_offset": True},
    },
    "slopes": {"position": "alibi", "attention": {"type": "local", "n_heads": 6, "head_dim": 4, "window": 9}},
    "latent slopes": {"position": "alibi", "attention": {"type": "latent", "n_heads": 4}},
    "no positions": {"position": "none", "attention": {"type": "linear", "n_heads": 4, "decay": "gated"}},
}
LENGTH = 80
"""Tokens of a row: more than a chunk of the recurrences."""


def drawn(changes: dict, seed: int = 0) -> gw.GPT:
    """Return a model whose weights are far enough from their beginnings that every one of them matters."""
    torch.manual_seed(seed)
    model = gw.GPT(gw.ModelConfig.from_dict({**BASE, **changes}))
    kept = re.compile(r"conv|A_log|dt_bias")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim > 1 and not kept.search(name):
            torch.nn.init.normal_(tensor, std=0.2)
        elif name.endswith(("weight", "bias", "sinks", "scale")) and not kept.search(name):
            tensor.data.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def theirs(model: gw.GPT) -> torch.nn.Module:
    """Return the model of the exported file with the weights of ours."""
    config = remote.GPTWrightConfig(gptwright=json.loads(json.dumps(model.config.to_dict())))
    found = remote.GPTWrightForCausalLM(config)
    found.load_state_dict(model.state_dict())
    return found.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "hybrid"
    write_remote(Trained.of_model(drawn(HYBRID)), path)
    return path


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and a mask with padding on the left, on the right and in between."""
    ids, mask = torch.randint(37, (3, LENGTH)), torch.ones(3, LENGTH, dtype=torch.long)
    mask[1, :70], mask[2, -13:], mask[2, 30:40] = 0, 0, 0
    return ids, mask


def close(ours: torch.Tensor, other: torch.Tensor) -> None:
    """Check the promise: 1e-4 absolute, 1e-5 of the range of the logits."""
    difference = (ours - other).abs().max()
    assert difference < 1e-4
    assert difference < 1e-5 * (ours.max() - ours.min())


@pytest.mark.parametrize("changes", [*EXAMPLES, *COMBINED.values()], ids=lambda changes: json.dumps(changes)[:70])
@torch.no_grad()
def test_logits_are_ours_whole_in_pieces_padded_and_packed(changes):
    model = drawn(changes)
    other, (ids, mask) = theirs(model), batch()
    expected = model(ids, padding_mask=mask.bool())
    found = other(ids, attention_mask=mask).logits
    close(expected[mask.bool()], found[mask.bool()])

    past, pieces, stop = None, [], 0
    for count in (25, 1, 1, 9, LENGTH - 36):
        start, stop = stop, stop + count
        out = other(ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=past, use_cache=True)
        past = out.past_key_values
        pieces.append(out.logits)
    close(found[mask.bool()], torch.cat(pieces, 1)[mask.bool()])

    documents = torch.tensor([1] * 30 + [2] * 3 + [3] * (LENGTH - 33)).expand(3, -1)
    positions = torch.cat([torch.arange(count) for count in (30, 3, LENGTH - 33)])[None]
    close(model(ids, segments=documents), other(ids, position_ids=positions).logits)


@pytest.mark.parametrize("name", ["hybrid", "sandwich"])
def test_generation_with_the_cache_is_generation_without(name):
    model = drawn(COMBINED[name])
    other, ids, mask = theirs(model), torch.randint(1, 37, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[0, :7] = mask[1, :2] = 0
    given = {"attention_mask": mask, "max_new_tokens": 12, "pad_token_id": 0}
    greedy = model.generate(ids, 12, do_sample=False, padding_mask=mask.bool())
    assert torch.equal(other.generate(ids, do_sample=False, **given), greedy)
    assert torch.equal(other.generate(ids, do_sample=False, prefill_chunk_size=5, **given), greedy)
    for way in ({"do_sample": False, "num_beams": 3}, {"do_sample": True, "top_k": 5}):
        both = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            both.append(other.generate(ids, use_cache=use_cache, **way, **given))
        assert torch.equal(*both)


@torch.no_grad()
def test_a_cache_can_be_gone_on_from_and_cut():
    other = theirs(drawn({}))
    ids = torch.randint(37, (2, 20))
    whole = other(ids).logits
    past = other(ids[:, :16]).past_key_values
    past.crop(-6)
    assert past.get_seq_length() == 10
    past.batch_repeat_interleave(2)
    past.batch_select_indices(torch.tensor([3, 0]))
    close(whole[[1, 0], 10:], other(ids[[1, 0], 10:], past_key_values=past).logits)
    first = other.generate(ids, do_sample=False, max_new_tokens=4, return_dict_in_generate=True, pad_token_id=0)
    longer = other.generate(
        first.sequences, past_key_values=first.past_key_values, do_sample=False, max_new_tokens=4, pad_token_id=0
    )
    assert torch.equal(longer, other.generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=0))
    guessed = other.generate(ids[:1], do_sample=False, max_new_tokens=8, prompt_lookup_num_tokens=3, pad_token_id=0)
    assert torch.equal(guessed, longer[:1])


def test_a_recurrent_memory_cannot_go_back():
    other = theirs(drawn(HYBRID))
    past = other(torch.randint(37, (1, 9))).past_key_values
    with pytest.raises(ValueError, match="2 tokens cannot be taken back from a recurrent memory, which is a sum"):
        past.crop(-2)
    assert past.get_seq_length() == 9


def test_what_does_not_fit_is_refused():
    other = theirs(drawn({"position": "learned"}))
    ids = torch.randint(37, (1, 9))
    foreign = transformers.DynamicCache()
    other(ids, past_key_values=foreign)  # an empty one says nothing
    foreign.update(torch.zeros(1, 4, 3, 4), torch.zeros(1, 4, 3, 4), 0)
    with pytest.raises(
        ValueError, match="past_key_values is a DynamicCache of 3 tokens, and this model has a GPTWright"
    ):
        other(ids, past_key_values=foreign)
    with pytest.raises(ValueError, match="97 tokens were given, but positions end at 96; shorten the input"):
        other(torch.zeros(1, 97, dtype=torch.long))
    with pytest.raises(ValueError, match="give either input_ids or inputs_embeds"):
        other()


@pytest.mark.parametrize("name", ["hybrid", "biases"])
def test_losses_and_gradients_are_ours(name):
    model = drawn(COMBINED[name] | {"dropout": 0.0}).train()
    other, ids = theirs(model).train(), torch.randint(37, (2, 12))
    seq = model.describe(ids)
    hidden = model.hidden(ids, seq)
    expected = gw.loss(model.logits(hidden)[:, :-1], ids[:, 1:]) + sum(seq.aux_losses)
    expected.backward()
    for checkpointing in (False, True):
        if checkpointing:
            other.activation_checkpointing_enable()
        other.zero_grad()
        found = other(ids, labels=ids).loss
        found.backward()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        for ours, parameter in zip(model.parameters(), other.parameters(), strict=True):
            wanted = torch.zeros_like(ours) if ours.grad is None else ours.grad  # an expert without tokens
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-5)


def test_the_folder_keeps_names_and_bits(folder):
    model = drawn(HYBRID)
    kept = load_file(folder / "model.safetensors")
    assert kept.keys() == model.state_dict().keys() - {"lm_head.weight"}
    assert all(torch.equal(kept[name], model.state_dict()[name]) for name in kept)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["GPTWrightForCausalLM"]
    assert config["gptwright"] == model.config.to_dict()
    assert (config["hidden_size"], config["num_attention_heads"], config["dtype"]) == (16, 4, "float32")
    assert {path.name for path in folder.iterdir()} == {
        *CODE,
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }


def test_sizes_of_shards(tmp_path):
    write_remote(Trained.of_model(drawn({}).to(torch.bfloat16)), tmp_path, max_shard_size="2KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = {tmp_path / name for name in index["weight_map"].values()}
    assert len(files) > 2
    assert (
        sum(tensor.nbytes for file in files for tensor in load_file(file).values()) == index["metadata"]["total_size"]
    )
    found = remote.GPTWrightForCausalLM.from_pretrained(tmp_path)
    assert found.dtype == torch.bfloat16
    assert [shard_bytes(size) for size in (7, "5GB", "1.5MiB", "500 kb")] == [7, 5 * 10**9, 1572864, 500_000]
    for wrong in ("much", "0", -1):
        with pytest.raises(
            gw.ConfigError, match=r"max_shard_size is .*, and must be a size above 0 such as 5GB or 500MB"
        ):
            shard_bytes(wrong)


def test_a_part_of_ones_own_is_refused_by_name(tmp_path):
    (tmp_path / "my_parts_for_export.py").write_text(
        "from gptwright.nn.attention.softmax import Softmax\nclass Mine(Softmax): ...\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        model = drawn(
            {"blocks": {"own": {"attention": {"type": "my_parts_for_export:Mine", "n_heads": 2}}, "ours": {}}}
        )
    finally:
        sys.path.remove(str(tmp_path))
    with pytest.raises(
        gw.Unsupported, match=r"model\.blocks\.own\.attention is 'my_parts_for_export:Mine', code of your"
    ):
        write_remote(Trained.of_model(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


ALONE = """
import sys, json, warnings
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "gptwright":
            raise ModuleNotFoundError(f"{name} is not here")
sys.meta_path.insert(0, Nothing())
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, decoders
folder, out = sys.argv[1:]
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).num_hidden_layers == 3
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
ids = torch.arange(12)[None]
greedy = model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=0)
model.save_pretrained(out)
again = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
assert torch.equal(again(ids).logits, model(ids).logits)
half = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True, dtype=torch.bfloat16)
fresh = AutoModelForCausalLM.from_config(model.config, trust_remote_code=True)
found = Tokenizer(models.BPE({chr(97 + n): n for n in range(37)}, [], unk_token="a"))
found.decoder = decoders.Fuse()
words = PreTrainedTokenizerFast(tokenizer_object=found, pad_token="a")
pipe = pipeline("text-generation", model=model, tokenizer=words)
text = pipe(["abc", "fghijk"], max_new_tokens=5, do_sample=False, batch_size=2)
logits = model(ids).logits
print(json.dumps({
    "logits": logits[0, -1].tolist(), "greedy": greedy.tolist(), "text": [found[0]["generated_text"] for found in text],
    "half": str(half.dtype), "far": float((half(ids).logits.float() - logits).abs().max()),
    "std": [float(fresh.token_embedding.weight.std()), float(fresh.layers[1].attention.o_proj.weight.std())],
    "norm": float(fresh.final_norm.weight.min()),
    "modules": sorted(name for name in sys.modules if name.startswith("gptwright")),
}))
"""


def test_the_folder_works_where_gptwright_is_not(folder, tmp_path):
    env = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", ALONE, str(folder), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    model, ids = drawn(HYBRID), torch.arange(12)[None]
    close(model(ids)[0, -1], torch.tensor(said["logits"]))
    assert said["greedy"] == model.generate(ids, 12, do_sample=False).tolist()
    assert said["half"] == "torch.bfloat16"
    assert said["far"] < 0.5
    for prompt, written in zip(("abc", "fghijk"), said["text"], strict=True):
        given = torch.tensor([[ord(letter) - 97 for letter in prompt]])
        expected = model.generate(given, 5, do_sample=False)[0].tolist()
        assert written == "".join(chr(97 + id) for id in expected)
    assert said["std"] == [pytest.approx(0.02, rel=0.2), pytest.approx(0.02 / 6**0.5, rel=0.2)]
    assert said["norm"] == 1.0
    assert said["modules"] == []
