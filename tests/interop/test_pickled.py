"""Checkpoints of nanoGPT and llama2.c: read as plain data, equal to what their own code computes."""

import os

import pytest
import torch
import torch.nn.functional as F

from gptwright.errors import CheckpointError, GptwrightError
from gptwright.interop.importing import from_pretrained, read

D, LAYERS, HEADS, VOCAB, LENGTH = 24, 2, 3, 31, 16


def nanogpt(bias: bool = True, prefix: str = "") -> dict:
    """Weights as nanoGPT's `model.state_dict()` has them."""
    torch.manual_seed(0)
    shapes = {"transformer.wte.weight": (VOCAB, D), "transformer.wpe.weight": (LENGTH, D)}
    for n in range(LAYERS):
        block = f"transformer.h.{n}."
        shapes |= {f"{block}ln_{i}.weight": (D,) for i in (1, 2)}
        linear = {"attn.c_attn": (3 * D, D), "attn.c_proj": (D, D), "mlp.c_fc": (4 * D, D), "mlp.c_proj": (D, 4 * D)}
        shapes |= {f"{block}{name}.weight": shape for name, shape in linear.items()}
        if bias:
            shapes |= {f"{block}{name}.bias": shape[:1] for name, shape in linear.items()}
            shapes |= {f"{block}ln_{i}.bias": (D,) for i in (1, 2)}
    shapes |= {"transformer.ln_f.weight": (D,)} | ({"transformer.ln_f.bias": (D,)} if bias else {})
    found = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    found["lm_head.weight"] = found["transformer.wte.weight"]
    return {prefix + name: tensor for name, tensor in found.items()}


def reference(w: dict, ids: torch.Tensor) -> torch.Tensor:
    """GPT-2's arithmetic by its formulas, with exact GELU as nanoGPT has it."""

    def norm(x, name):
        return F.layer_norm(x, (D,), w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-5)

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: ids.shape[1]]
    for n in range(LAYERS):
        block = f"transformer.h.{n}."
        parts = linear(norm(x, block + "ln_1"), block + "attn.c_attn").split(D, -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(mixed, block + "attn.c_proj")
        x = x + linear(F.gelu(linear(norm(x, block + "ln_2"), block + "mlp.c_fc")), block + "mlp.c_proj")
    return norm(x, "transformer.ln_f") @ w["lm_head.weight"].T


ARGS = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": D, "block_size": LENGTH, "vocab_size": VOCAB, "dropout": 0.1}


@pytest.mark.parametrize(("bias", "prefix"), [(True, ""), (False, "_orig_mod.")])
@torch.no_grad()
def test_nanogpt_computes_the_same(tmp_path, bias, prefix):
    weights = nanogpt(bias, prefix)
    masks = {f"{prefix}transformer.h.{n}.attn.bias": torch.ones(1, 1, LENGTH, LENGTH).tril() for n in range(LAYERS)}
    whole = {"model": {**weights, **masks}, "model_args": {**ARGS, "bias": bias}, "iter_num": 7, "config": {"a": [1]}}
    torch.save({**whole, "best_val_loss": torch.tensor(1.5)}, tmp_path / "ckpt.pt")
    found = read(tmp_path)
    assert len(found.surplus) == LAYERS + 1  # masks, and the copy of the tied head
    with pytest.warns(UserWarning, match="tokenizer|iterations"):
        model = from_pretrained(tmp_path / "ckpt.pt")
    ids = torch.randint(0, VOCAB, (2, LENGTH))
    plain = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    torch.testing.assert_close(model(ids), reference(plain, ids), atol=1e-5, rtol=1e-5)


def llama2c(kv_heads: int) -> tuple[dict, dict]:
    torch.manual_seed(1)
    width, inner = D // HEADS, 40
    shapes = {"tok_embeddings.weight": (VOCAB, D), "norm.weight": (D,)}
    for n in range(LAYERS):
        block = f"layers.{n}."
        shapes |= {f"{block}{name}_norm.weight": (D,) for name in ("attention", "ffn")}
        shapes |= {f"{block}attention.w{p}.weight": (D, D) for p in "qo"}
        shapes |= {f"{block}attention.w{p}.weight": (kv_heads * width, D) for p in "kv"}
        shapes |= {f"{block}feed_forward.w{p}.weight": (inner, D) for p in "13"}
        shapes |= {f"{block}feed_forward.w2.weight": (D, inner)}
    found = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    found["output.weight"] = found["tok_embeddings.weight"]
    args = {"dim": D, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": kv_heads, "vocab_size": VOCAB}
    return found, {**args, "multiple_of": 4, "max_seq_len": LENGTH, "dropout": 0.0}


def llama_reference(w: dict, ids: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """Llama's arithmetic with neighbouring pairs turned as complex numbers, as llama2.c has it."""
    width, steps = D // HEADS, ids.shape[1]
    angles = torch.outer(torch.arange(steps), 10000.0 ** (-torch.arange(0, width, 2) / width))
    turn = torch.polar(torch.ones_like(angles), angles)

    def rope(x):
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w[f"{name}.weight"]

    x = w["tok_embeddings.weight"][ids]
    for n in range(LAYERS):
        block, h = f"layers.{n}.", norm(x, f"layers.{n}.attention_norm")
        q, k, v = ((h @ w[f"{block}attention.w{p}.weight"].T).unflatten(-1, (-1, width)).transpose(1, 2) for p in "qkv")
        k, v = (part.repeat_interleave(HEADS // kv_heads, 1) for part in (rope(k.contiguous()), v))
        mixed = F.scaled_dot_product_attention(rope(q.contiguous()), k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + mixed @ w[f"{block}attention.wo.weight"].T
        h = norm(x, f"{block}ffn_norm")
        one, three = (h @ w[f"{block}feed_forward.w{p}.weight"].T for p in "13")
        x = x + (F.silu(one) * three) @ w[f"{block}feed_forward.w2.weight"].T
    return norm(x, "norm") @ w["output.weight"].T


@pytest.mark.parametrize("kv_heads", [HEADS, 1])
@torch.no_grad()
def test_llama2c_computes_the_same(tmp_path, kv_heads):
    weights, args = llama2c(kv_heads)
    torch.save({"model": weights, "model_args": args}, tmp_path / "ckpt.pt")
    with pytest.warns(UserWarning, match="tokenizer"):
        model = from_pretrained(tmp_path)
    ids = torch.randint(0, VOCAB, (2, LENGTH))
    torch.testing.assert_close(model(ids), llama_reference(weights, ids, kv_heads), atol=1e-5, rtol=1e-5)


class Evil:
    def __reduce__(self):
        return os._exit, (3,)


def test_a_pickle_with_code_is_refused_and_never_runs(tmp_path):
    torch.save({"model": Evil(), "model_args": {}}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="may run code"):
        read(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        ({"weights": {}}, "'model' and 'model_args'"),
        ({"model": {"a": 1}, "model_args": {}}, "no tensors"),
        ({"model": nanogpt(), "model_args": {"n_layer": 2}}, "model_args"),
        ({"model": nanogpt(), "model_args": {**ARGS, "n_head": 5}}, "cannot be built"),
        ({"model": nanogpt(), "model_args": {**ARGS, "n_layer": 3}}, "lacks transformer.h.2"),
        (
            {"model": nanogpt(bias=False), "model_args": {**ARGS, "bias": True}},
            "lacks transformer.h.0.attn.c_attn.bias",
        ),
        ({"model": {**nanogpt(), "extra": torch.ones(1)}, "model_args": {**ARGS}}, "has extra"),
        ({"model": nanogpt(), "model_args": {**ARGS, "n_embd": 27}}, "shape"),
        ([1, 2], "a checkpoint is a dict"),
    ],
)
def test_what_is_no_such_checkpoint_is_refused(tmp_path, whole, words):
    torch.save(whole, tmp_path / "ckpt.pt")
    with pytest.raises(GptwrightError, match=words):
        read(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04junk"])
def test_damaged_files(tmp_path, data):
    (tmp_path / "ckpt.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"damaged|may run code"):
        read(tmp_path / "ckpt.pt")
