"""Phi 1 to 3 (Gunasekar et al., 2023; Abdin et al., 2024)."""

from typing import Any

from gptwright.interop.families.gpt2 import QKV
from gptwright.interop.llama_like import LlamaLike
from gptwright.interop.plain import layer, norm_eps
from gptwright.interop.rope import parameters, position_of
from gptwright.interop.rules import ROWS, Table
from gptwright.interop.words import Words
from gptwright.model.config import ModelConfig


class Phi3(LlamaLike):
    """Llama's wiring with joined projections."""

    MODEL_TYPE = "phi3"
    ARCHITECTURE = "Phi3ForCausalLM"
    WINDOWS = True
    MAY_BIAS = False
    PARTIAL = True
    DEFAULTS = LlamaLike.DEFAULTS | {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }

    def settings(self, words: Words) -> dict[str, Any]:
        """Return the settings of our model; its one dropout stands for both of theirs."""
        words.understood("embd_pdrop", "original_max_position_embeddings")
        return super().settings(words) | {"dropout": float(words["resid_pdrop"] or 0.0)}

    def position(self, words: Words) -> dict[str, Any]:
        """Return the positions; what others call yarn is another scaling here."""
        found = parameters(words)
        if found.get("rope_type", found.get("type")) in ("yarn", "su"):
            found["rope_type"] = "longrope"
        return position_of(found, words, head_dim=self.head_dim(words), partial=True)

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Phi-3's words."""
        dropouts = {"resid_pdrop": config.dropout, "embd_pdrop": config.dropout}
        return super().words(config) | {"sliding_window": self.windows(config)[0], "pad_token_id": None} | dropouts

    def table(self, config: ModelConfig) -> Table:
        """Return Phi-3's names."""
        block, found = "model.layers.{n}.", dict(super().table(config))
        for part in ("attention.q", "attention.k", "attention.v", "feed_forward.gate", "feed_forward.up"):
            found.pop(f"layers.{{n}}.{part}_proj")
        both = ("layers.{n}.feed_forward.gate_proj", "layers.{n}.feed_forward.up_proj")
        joined = {QKV: (block + "self_attn.qkv_proj", ROWS), both: (block + "mlp.gate_up_proj", ROWS)}
        return {**found, **joined}


class Phi(LlamaLike):
    """Both parts side by side on one norm, biases everywhere, at the head too."""

    MODEL_TYPE = "phi"
    ARCHITECTURE = "PhiForCausalLM"
    PARTIAL = True
    DEFAULTS = LlamaLike.DEFAULTS | {
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
    }

    def settings(self, words: Words) -> dict[str, Any]:
        """Return the settings of our model."""
        words.understood("embd_pdrop")
        return super().settings(words) | {
            "norm": {"type": "layer_norm", "eps": words.number("layer_norm_eps")},
            "wiring": "parallel",
            "bias": True,
            "head_bias": True,
            "dropout": float(words["resid_pdrop"] or 0.0),
        }

    def attention(self, words: Words, index: int) -> dict[str, Any]:
        """Return the attention of one layer."""
        found = super().attention(words, index)
        if not words.flag("qk_layernorm"):
            return found
        return found | {"qk_norm": {"type": "layer_norm", "eps": words.number("layer_norm_eps")}}

    def biases(self, words: Words) -> dict[str, Any]:
        """Return biases of all projections."""
        del words
        return {"qkv_bias": True, "out_bias": True}

    def feed_forward(self, words: Words, index: int) -> dict[str, Any]:
        """Return the feed-forward of one layer."""
        del index
        return {"type": "mlp", "d_ff": words.count("intermediate_size"), "activation": words.activation("hidden_act")}

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Phi's words."""
        said = super().words(config)
        said.pop("rms_norm_eps")
        return said | {
            "layer_norm_eps": norm_eps(config),
            "qk_layernorm": layer(config, 0)["attention"].get("qk_norm") is not None,
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
        }

    def table(self, config: ModelConfig) -> Table:
        """Return Phi's names."""
        block = "model.layers.{n}."
        return {
            **super().table(config),
            "layers.{n}.attention.o_proj": block + "self_attn.dense",
            "layers.{n}.attention.q_norm": block + "self_attn.q_layernorm",
            "layers.{n}.attention.k_norm": block + "self_attn.k_layernorm",
            "layers.{n}.feed_forward.up_proj": block + "mlp.fc1",
            "layers.{n}.feed_forward.down_proj": block + "mlp.fc2",
            "final_norm": "model.final_layernorm",
        }
