"""Models of `transformers` with random weights, family by family and at awkward settings."""

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="the peer; it comes with gptwright[dev]")

LLAMA = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 34,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GPT2 = {
    "vocab_size": 61, "n_positions": 96, "n_embd": 24, "n_layer": 3, "n_head": 3, "bos_token_id": 1, "eos_token_id": 2
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 24}
MOE = {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 36}  # its kernels want multiples of 4
QWEN_MOE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt1": ("OpenAIGPT", GPT2),
    "gpt1-untied-relu": ("OpenAIGPT", GPT2 | {"afn": "relu", "tie_word_embeddings": False}),
    "gpt2": ("GPT2", GPT2),
    "gpt2-odd": ("GPT2", GPT2 | {"n_inner": 35, "activation_function": "relu", "tie_word_embeddings": False}),
    "gpt2-scaled": ("GPT2", GPT2 | {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
    "gpt2-unscaled": ("GPT2", GPT2 | {"scale_attn_weights": False, "layer_norm_epsilon": 1e-3}),
    "gpt2-quick": ("GPT2", GPT2 | {"activation_function": "quick_gelu", "n_head": 1}),
    "neox": ("GPTNeoX", LLAMA | {"num_attention_heads": 3}),
    "neox-serial": (
        "GPTNeoX",
        LLAMA | {"use_parallel_residual": False, "rotary_pct": 1.0, "tie_word_embeddings": True},
    ),
    "neox-unbiased": (
        "GPTNeoX",
        LLAMA | {"attention_bias": False, "hidden_act": "gelu_new", "rotary_emb_base": 500, "rotary_pct": 0.67},
    ),
    "llama": ("Llama", LLAMA),
    "llama-biased": ("Llama", LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-heads": ("Llama", LLAMA | {"num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 10}),
    "llama-3": ("Llama", LLAMA | {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-3}),
    "llama-linear": ("Llama", LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}}),
    "llama-yarn": ("Llama", LLAMA | {"rope_parameters": YARN}),
    "llama-yarn-odd": (
        "Llama",
        LLAMA | {"rope_parameters": YARN | {"beta_fast": 8, "beta_slow": 2, "truncate": False}},
    ),
    "mistral": ("Mistral", LLAMA | {"sliding_window": 7}),
    "mistral-full": ("Mistral", LLAMA | {"sliding_window": None, "head_dim": 8}),
    "qwen2": ("Qwen2", LLAMA),
    "qwen2-windows": ("Qwen2", LLAMA | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3", LLAMA | {"head_dim": 10}),
    "qwen3-biased": ("Qwen3", LLAMA | {"head_dim": 6, "attention_bias": True, "tie_word_embeddings": True}),
    "mixtral": ("Mixtral", LLAMA | MOE),
    "mixtral-one": ("Mixtral", LLAMA | MOE | {"num_experts_per_tok": 1, "sliding_window": 9}),
    "qwen3-moe": ("Qwen3Moe", LLAMA | QWEN_MOE | {"head_dim": 8, "mlp_only_layers": [1]}),
    "qwen3-moe-shared-out": ("Qwen3Moe", LLAMA | QWEN_MOE | {"norm_topk_prob": True, "decoder_sparse_step": 2}),
    "gemma": ("Gemma", LLAMA | {"head_dim": 8}),
    "gemma2": ("Gemma2", LLAMA | {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 20}),
    "gemma2-plain": ("Gemma2", LLAMA | {"head_dim": 6, "attn_logit_softcapping": None, "attention_bias": True}),
    "gemma3": ("Gemma3", LLAMA | {"head_dim": 8, "sliding_window": 6, "num_hidden_layers": 7}),
    "gemma3-local": ("Gemma3", LLAMA | {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention"] * 3}),
    "phi3": ("Phi3", LLAMA | {"pad_token_id": 0}),
    "phi3-window": ("Phi3", LLAMA | {"pad_token_id": 0, "sliding_window": 5, "partial_rotary_factor": 0.67}),
    "phi": ("Phi", LLAMA | {"num_attention_heads": 6}),
    "phi-normed": ("Phi", LLAMA | {"qk_layernorm": True, "partial_rotary_factor": 0.4, "num_key_value_heads": 4}),
    "smollm3-nowhere": ("SmolLM3", LLAMA | {"pad_token_id": 0, "no_rope_layers": [0, 0, 0]}),
    "smollm3": ("SmolLM3", LLAMA | {"pad_token_id": 0, "no_rope_layer_interval": 2}),
}
"""By name: the family's class and its settings."""
HEADS = {"OpenAIGPT": "LMHeadModel", "GPT2": "LMHeadModel"}
CONFIGS = {"Gemma3": "Gemma3TextConfig"}


def peer(family: str, settings: dict[str, Any]) -> Any:
    """Return a model of `transformers` whose weights are far from trivial, in eval mode."""
    torch.manual_seed(0)
    config = getattr(transformers, CONFIGS.get(family, f"{family}Config"))(**settings)
    model = getattr(transformers, family + HEADS.get(family, "ForCausalLM"))(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn_like(weight)
            weight.copy_(0.25 * drawn if weight.ndim > 1 else 0.2 * drawn + ("norm" in name or "ln_" in name) * 1.0)
    return model.eval()


def saved(model: Any, folder: Path, **options: Any) -> Path:
    """Write a model as `transformers` does."""
    model.save_pretrained(folder, **options)
    return folder
