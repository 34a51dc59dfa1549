"""Small models in the shape of each architecture of llama.cpp, with the architecture that each must become."""

import copy
from typing import Any

import torch

import gptwright as gw
from gptwright.interop.trained import Trained

VOCAB = 97
_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 64,
    "n_layers": 2,
    "max_seq_len": 64,
    "norm": "rms_norm",
    "position": "rotary",
    "attention": {"type": "softmax", "n_heads": 4},
    "feed_forward": {"type": "glu", "d_ff": 96},
    "init": {"std": 0.15},
}
_GPT: dict[str, Any] = {
    "norm": {"type": "layer_norm", "bias": True},
    "feed_forward": {"type": "mlp", "activation": "gelu_tanh"},
    "bias": True,
}
_MOE = {"type": "moe", "n_experts": 4, "top_k": 2, "d_ff": 32}
_OFFSET = {"type": "rms_norm", "unit_offset": True}
_GEMMA: dict[str, Any] = {
    "norm": _OFFSET,
    "embedding_scale": "width",
    "feed_forward": {"type": "glu", "d_ff": 96, "activation": "gelu_tanh"},
}


def _softmax(**settings: Any) -> dict[str, Any]:
    return {"type": "softmax", "n_heads": 4, **settings}


def _local(**settings: Any) -> dict[str, Any]:
    return {"type": "local", "n_heads": 4, "window": 8, **settings}


def _scaled(kind: str, theta: float = 10000.0, **settings: Any) -> dict[str, Any]:
    return {"type": "rotary", "theta": theta, "scaling": {"type": kind, "factor": 4.0, **settings}}


_GEMMA3 = {
    "n_layers": 7,
    "wiring": "sandwich",
    "blocks": {
        "near": {"attention": _local(qk_norm=_OFFSET, scale=0.3), "position": {"type": "rotary", "theta": 5000.0}},
        "far": {"attention": _softmax(qk_norm=_OFFSET, scale=0.3)},
    },
    "pattern": [*["near"] * 5, "far"],
    "position": _scaled("linear", theta=100000.0),
}
_CAPPED = {"softcap": 3.0, "head_dim": 32}
_OWN_YARN = {"original_max_seq_len": 16, "beta_fast": 3.0, "beta_slow": 0.2, "truncate": False, "attention_factor": 1.3}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, awkward": (
        "llama",
        {"attention": _softmax(n_kv_heads=2, head_dim=24), "tie_embeddings": False, "bias": True},
    ),
    "llama, linear": ("llama", {"position": _scaled("linear")}),
    "llama, ntk": ("llama", {"position": _scaled("ntk", theta=500.0)}),
    "llama, yarn": ("llama", {"position": _scaled("yarn", original_max_seq_len=16)}),
    "llama, own yarn": ("llama", {"position": _scaled("yarn", **_OWN_YARN)}),
    "llama, llama3": ("llama", {"position": _scaled("llama3", original_max_seq_len=16)}),
    "llama, experts": ("llama", {"feed_forward": _MOE}),
    "llama, long window": ("llama", {"attention": _local(window=64)}),
    "llama, no scale": ("llama", {"norm": {"type": "rms_norm", "scale": False}}),
    "qwen2": ("qwen2", {"attention": _softmax(qkv_bias=True, n_kv_heads=2)}),
    "qwen3": ("qwen3", {"attention": _softmax(qk_norm="rms_norm", n_kv_heads=2, head_dim=24, scale=0.7)}),
    "qwen3moe": ("qwen3moe", {"attention": _softmax(qk_norm="rms_norm"), "feed_forward": _MOE}),
    "smollm3": ("smollm3", {"n_layers": 5, "blocks": {"turned": {}, "plain": {"position": "none"}}}),
    "gpt2": ("gpt2", {**_GPT, "position": "learned"}),
    "gpt2, no bias": ("gpt2", {"norm": "layer_norm", "feed_forward": "mlp", "position": "learned"}),
    "starcoder2": ("starcoder2", {**_GPT, "attention": _softmax(n_kv_heads=2)}),
    "gptneox": (
        "gptneox",
        {**_GPT, "wiring": "parallel_norms", "position": {"type": "rotary", "fraction": 0.25}, "tie_embeddings": False},
    ),
    "phi2": (
        "phi2",
        {**_GPT, "wiring": "parallel", "position": {"type": "rotary", "fraction": 0.5}, "head_bias": True},
    ),
    "phi3": ("phi3", {"position": {"type": "rotary", "fraction": 0.5}, "attention": _softmax(n_kv_heads=2)}),
    "granite": ("granite", {"attention": _softmax(scale=0.2), "embedding_scale": 3.0, "residual_scale": 0.5}),
    "gemma": ("gemma", {**_GEMMA, "attention": _softmax(head_dim=32, n_kv_heads=1)}),
    "gemma2": (
        "gemma2",
        {
            **_GEMMA,
            "wiring": "sandwich",
            "logit_softcap": 5.0,
            "blocks": {"near": {"attention": _local(**_CAPPED)}, "far": {"attention": _softmax(**_CAPPED)}},
        },
    ),
    "gemma3": ("gemma3", {**_GEMMA, **_GEMMA3}),
}
CASES["smollm3"][1]["pattern"] = ["turned", "turned", "turned", "plain"]


def build(changes: dict[str, Any], tokenizer: Any = None) -> gw.GPT:
    """Return a model with random weights, vectors too, that begin otherwise at 0 or 1."""
    torch.manual_seed(0)
    model = gw.GPT(gw.ModelConfig.from_dict({**copy.deepcopy(_BASE), **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.tokenizer = tokenizer
    return model


def trained(changes: dict[str, Any], tokenizer: Any = None) -> Trained:
    """Return such a model as it is exported."""
    return Trained.of_model(build(changes, tokenizer))
