"""GGUF files as the gguf package reads them: every tensor bit for bit, every setting, and what is refused."""

import dataclasses
import os
import sys
from typing import Any

import numpy as np
import pytest
import torch

from gptwright.errors import DataError, GptwrightError, Unsupported
from gptwright.interop.gguf.shapes import match
from gptwright.interop.gguf.write import write_gguf
from gptwright.interop.trained import Trained

from .models import CASES, build, trained

gguf = pytest.importorskip("gguf", reason="reading GGUF back needs gguf: pip install 'gptwright[gguf]'")


@pytest.fixture
def written(tmp_path):
    def written(changes, dtype: Any = "f32", **how):
        model = build(changes)
        facts = write_gguf(Trained.of_model(model), tmp_path / "model.gguf", dtype=dtype, **how)
        reader = gguf.GGUFReader(tmp_path / "model.gguf")
        return model, facts, reader, {tensor.name: tensor for tensor in reader.tensors}

    return written


def setting(reader, name):
    return reader.fields[name].contents()


def plain(tensor):
    """Return a tensor of a file as fp32."""
    return torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())


def apart(tensor, heads):
    """Undo the layout of neighbouring pairs."""
    return tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


@pytest.mark.parametrize("name", CASES)
def test_each_shape_becomes_its_architecture(name):
    architecture, changes = CASES[name]
    assert match(trained(changes).config).architecture.name == architecture


def test_llama_tensors_are_ours_bit_for_bit(written):
    model, facts, reader, tensors = written(CASES["llama, awkward"][1])
    ours, found = model.state_dict(), {name: plain(tensor) for name, tensor in tensors.items()}
    assert facts["parameters"] == model.num_params()
    assert setting(reader, "general.architecture") == "llama"
    for kind in ("weight", "bias"):
        assert torch.equal(apart(found[f"blk.1.attn_q.{kind}"], 4), ours[f"layers.1.attention.q_proj.{kind}"])
        assert torch.equal(apart(found[f"blk.1.attn_k.{kind}"], 2), ours[f"layers.1.attention.k_proj.{kind}"])
        assert torch.equal(found[f"blk.1.attn_v.{kind}"], ours[f"layers.1.attention.v_proj.{kind}"])
        assert torch.equal(found[f"blk.0.ffn_down.{kind}"], ours[f"layers.0.feed_forward.down_proj.{kind}"])
    assert torch.equal(found["output.weight"], ours["lm_head.weight"])
    assert torch.equal(found["output_norm.weight"], ours["final_norm.weight"])
    sizes = {"head_count": 4, "head_count_kv": 2, "key_length": 24}
    assert {name: setting(reader, f"llama.attention.{name}") for name in sizes} == sizes
    assert setting(reader, "llama.context_length") == 64
    assert setting(reader, "llama.feed_forward_length") == 96


def test_neox_keeps_halves_and_joins_queries_keys_and_values(written):
    model, _, reader, tensors = written(CASES["gptneox"][1])
    ours = model.state_dict()
    for kind in ("weight", "bias"):
        joined = torch.cat([ours[f"layers.0.attention.{part}_proj.{kind}"] for part in "qkv"])
        assert torch.equal(plain(tensors[f"blk.0.attn_qkv.{kind}"]), joined)
    assert setting(reader, "gptneox.use_parallel_residual") is True
    assert setting(reader, "gptneox.rope.dimension_count") == 4


def test_experts_are_stacked_and_routers_stay_fp32(written):
    model, _, reader, tensors = written(CASES["llama, experts"][1], "f16")
    ours = model.state_dict()
    experts = torch.stack([ours[f"layers.1.feed_forward.experts.{n}.up_proj.weight"] for n in range(4)])
    assert torch.equal(plain(tensors["blk.1.ffn_up_exps.weight"]), experts.half().float())
    assert torch.equal(plain(tensors["blk.1.ffn_gate_inp.weight"]), ours["layers.1.feed_forward.router.weight"])
    assert tensors["blk.1.ffn_gate_inp.weight"].tensor_type.name == "F32"
    assert setting(reader, "llama.expert_count") == 4
    assert setting(reader, "llama.expert_used_count") == 2


def test_gemma_norms_have_their_offset_added(written):
    model, _, reader, tensors = written(CASES["gemma3"][1])
    ours = model.state_dict()
    assert torch.equal(plain(tensors["blk.2.post_ffw_norm.weight"]), ours["layers.2.feed_forward_post_norm.weight"] + 1)
    factor = np.float32(0.3 / 16**-0.5)
    queries = (ours["layers.2.attention.q_norm.weight"] + 1) * factor
    assert torch.equal(plain(tensors["blk.2.attn_q_norm.weight"]), queries)
    assert setting(reader, "gemma3.attention.sliding_window") == 8
    assert setting(reader, "gemma3.rope.freq_base_swa") == 5000.0


def test_biases_that_must_be_there_are_zeros_and_it_is_said(written):
    _, facts, _, tensors = written(CASES["gpt2, no bias"][1])
    assert not plain(tensors["blk.0.attn_qkv.bias"]).any()
    assert any("written as zeros (qkv_bias, out_bias, feed-forward bias, norm bias)" in note for note in facts["notes"])
    assert any("tanh formula" in note for note in facts["notes"])


@pytest.mark.parametrize(
    ("dtype", "of"),
    [("f16", lambda x: x.half().float()), ("bf16", lambda x: x.bfloat16().float()), ("f32", lambda x: x)],
)
def test_matrices_are_rounded_once_and_vectors_never(written, dtype, of):
    model, facts, _, tensors = written({}, dtype)
    ours = model.state_dict()["layers.0.feed_forward.up_proj.weight"]
    assert torch.equal(plain(tensors["blk.0.ffn_up.weight"]), of(ours))
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == dtype.upper()
    assert tensors["blk.0.ffn_norm.weight"].tensor_type.name == "F32"
    assert facts["dtype"] == dtype
    assert facts["bytes"] == os.path.getsize(facts["file"])


def test_q8_0_keeps_odd_rows_in_f16_and_names_them(written):
    model, facts, _, tensors = written({"feed_forward": {"type": "glu", "d_ff": 40}}, "q8_0")
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == "Q8_0"
    assert facts["kept_f16"] == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    assert any("2 matrices are f16, as q8_0 needs rows of a multiple of 32" in note for note in facts["notes"])
    down = model.state_dict()["layers.0.feed_forward.down_proj.weight"]
    assert torch.equal(plain(tensors["blk.0.ffn_down.weight"]), down.half().float())
    up = model.state_dict()["layers.0.feed_forward.up_proj.weight"]
    step = up.unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True) / 127
    off = (plain(tensors["blk.0.ffn_up.weight"]) - up).unflatten(1, (-1, 32)).abs()
    assert (off <= 0.57 * step).all()  # half a step, and the f16 of the scale


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"attention": {"type": "linear", "n_heads": 4}, "norm": "scale_norm"},
            "attention is linear, and must be softmax; norm is scale_norm, and must be rms_norm",
        ),
        (
            {"attention": {"type": "local", "n_heads": 4, "window": 8}},
            "and must be softmax (which a window of max_seq_len tokens is)",
        ),
        ({"wiring": "post"}, "wiring is post, and must be pre"),
        ({"attention": {"type": "softmax", "n_heads": 4, "sinks": True}}, "sinks is yes, and must be no"),
        ({"feed_forward": {"type": "moe", "n_experts": 3, "n_shared": 1}}, "moe of glu with silu and n_shared"),
        ({"attention": {"type": "latent", "n_heads": 4}}, "attention is latent"),
        ({"value_residual": 0.5}, "value_residual is 0.5, and must be 0"),
    ],
)
def test_what_no_architecture_computes_is_refused_with_what_to_change(tmp_path, changes, sentence):
    with pytest.raises(Unsupported) as raised:
        write_gguf(trained(changes), tmp_path / "model.gguf")
    assert sentence in str(raised.value)
    assert "no architecture of llama.cpp" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_no_tensor_is_dropped_in_silence(tmp_path):
    model = trained({})
    more = {**model.tensors, "layers.0.attention.sinks": torch.zeros(4)}
    with pytest.raises(Unsupported, match=r"llama has no place for layers.0.attention.sinks \(1 tensors"):
        write_gguf(dataclasses.replace(model, tensors=more), tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(GptwrightError, match="dtype is 'q4_0', and GGUF files are written as f32, f16, bf16, q8_0"):
        write_gguf(trained({}), tmp_path / "model.gguf", dtype="q4_0")  # pyright: ignore[reportArgumentType]


def test_without_the_package_the_way_to_get_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(GptwrightError, match=r"needs the gguf package, .* pip install 'gptwright\[gguf\]'"):
        write_gguf(trained({}), tmp_path / "model.gguf")


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file/model\.gguf"):
        write_gguf(trained({}), tmp_path / "file" / "model.gguf")
    (tmp_path / "there.gguf").mkdir()
    with pytest.raises(DataError, match=r"cannot write .*there\.gguf"):
        write_gguf(trained({}), tmp_path / "there.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there.gguf"]
