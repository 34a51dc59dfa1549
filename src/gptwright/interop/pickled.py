"""Checkpoints that training scripts leave as `ckpt.pt`: nanoGPT's and llama2.c's, read without unpickling freely.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses everything else.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptwright.errors import CheckpointError, ConfigError, Unsupported
from gptwright.interop.families.gpt2 import QKV
from gptwright.interop.family import shapes_of
from gptwright.interop.found import Found, InMemory
from gptwright.interop.rules import ROWS, Table, neighbours, rules_of
from gptwright.model.config import ModelConfig

_COMPILED = "_orig_mod."
"""What torch.compile puts before every name."""


def read_pickled(file: Path) -> Found:
    """Return the model in a `ckpt.pt` of nanoGPT or llama2.c.

    Raises:
        CheckpointError: it is damaged, holds more than tensors and plain values, or none of theirs.
        Unsupported: it has tensors that the settings in it do not explain.
    """
    whole = _loaded(file)
    model, words = whole.get("model"), whole.get("model_args")
    if not isinstance(model, Mapping) or not isinstance(words, Mapping):
        raise CheckpointError(
            f"{file} holds {', '.join(map(str, list(whole)[:6])) or 'nothing'}, and a checkpoint of nanoGPT or "
            "llama2.c has 'model' and 'model_args'; convert it to safetensors with a config.json first"
        )
    tensors = {str(name).removeprefix(_COMPILED): value for name, value in model.items()}
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{file} has values in 'model' that are no tensors; save model.state_dict() alone")
    kind = "llama2.c" if "dim" in words else "nanogpt"
    try:
        settings, table = (_llama2c if kind == "llama2.c" else _nanogpt)(words, tensors)
        config = ModelConfig.from_dict(settings)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} has model_args without a usable {error}; they are {dict(words)}") from None
    except ConfigError as error:
        raise Unsupported(f"the model in {file} cannot be built of our parts: {error}") from None
    found = Found(config, kind, dict(words))
    surplus = ("*.attn.bias", "freqs_*", *(("lm_head.weight", "output.weight") if config.tie_embeddings else ()))
    found.take(list(rules_of(table, shapes_of(config))), InMemory(tensors), file, surplus=surplus)
    if isinstance(whole.get("iter_num"), int):
        found.notes.append(f"{kind} had trained it for {whole['iter_num']} iterations; its optimizer is left behind")
    return found


def _loaded(file: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0][:160]
        raise CheckpointError(
            f"{file} holds more than tensors and plain values ({reason}), which may run code when it is opened and is "
            "never read; save {'model': ..., 'model_args': ...} without the rest"
        ) from None
    except Exception as error:  # on bytes that are no pickle the reader stumbles wherever it happens to be
        raise CheckpointError(f"{file} is damaged or no file of torch.save ({error!s:.120}); copy it again") from None
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{file} holds {type(found).__name__}, and a checkpoint is a dict; see nanoGPT's train.py"
        )
    return found


def _nanogpt(words: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], Table]:
    """Return settings and names of nanoGPT (Karpathy, 2022, https://github.com/karpathy/nanoGPT)."""
    block = "transformer.h.{n}."
    table: Table = {
        "token_embedding": "transformer.wte",
        "position": "transformer.wpe",
        "layers.{n}.attention_norm": block + "ln_1",
        QKV: (block + "attn.c_attn", ROWS),
        "layers.{n}.attention.o_proj": block + "attn.c_proj",
        "layers.{n}.feed_forward_norm": block + "ln_2",
        "layers.{n}.feed_forward.up_proj": block + "mlp.c_fc",
        "layers.{n}.feed_forward.down_proj": block + "mlp.c_proj",
        "final_norm": "transformer.ln_f",
    }
    return {
        "vocab_size": tensors["transformer.wte.weight"].shape[0],
        "d_model": words["n_embd"],
        "n_layers": words["n_layer"],
        "max_seq_len": words["block_size"],
        "attention": {
            "type": "softmax",
            "n_heads": words["n_head"],
            "attention_dropout": float(words.get("dropout", 0)),
        },
        "feed_forward": {"type": "mlp", "activation": "gelu"},
        "norm": {"type": "layer_norm", "eps": 1e-5},
        "position": "learned",
        "dropout": float(words.get("dropout", 0)),
        "bias": bool(words.get("bias", True)),
    }, table


def _llama2c(words: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], Table]:
    """Return settings and names of llama2.c (Karpathy, 2023, https://github.com/karpathy/llama2.c)."""
    heads = words["n_heads"]
    kv_heads = words.get("n_kv_heads") or heads
    block = "layers.{n}."
    table: Table = {
        "token_embedding": "tok_embeddings",
        "layers.{n}.attention_norm": block + "attention_norm",
        "layers.{n}.attention.q_proj": (block + "attention.wq", neighbours(heads)),
        "layers.{n}.attention.k_proj": (block + "attention.wk", neighbours(kv_heads)),
        "layers.{n}.attention.v_proj": block + "attention.wv",
        "layers.{n}.attention.o_proj": block + "attention.wo",
        "layers.{n}.feed_forward_norm": block + "ffn_norm",
        "layers.{n}.feed_forward.gate_proj": block + "feed_forward.w1",
        "layers.{n}.feed_forward.down_proj": block + "feed_forward.w2",
        "layers.{n}.feed_forward.up_proj": block + "feed_forward.w3",
        "final_norm": "norm",
        "lm_head": "output",
    }
    head, embedding = tensors.get("output.weight"), tensors["tok_embeddings.weight"]
    return {
        "vocab_size": embedding.shape[0],
        "d_model": words["dim"],
        "n_layers": words["n_layers"],
        "max_seq_len": words["max_seq_len"],
        "attention": {"type": "softmax", "n_heads": heads, "n_kv_heads": kv_heads},
        "feed_forward": {"type": "glu", "d_ff": tensors["layers.0.feed_forward.w1.weight"].shape[0]},
        "norm": {"type": "rms_norm", "eps": float(words.get("norm_eps", 1e-5))},
        "position": "rotary",
        "dropout": float(words.get("dropout") or 0),
        "bias": False,
        "tie_embeddings": head is None or torch.equal(head, embedding),
    }, table
