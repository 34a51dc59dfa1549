"""Mixtures of experts with Llama's wiring: Mixtral and Qwen3-MoE."""

from typing import Any

from gptwright.interop.families.llama import Qwen3
from gptwright.interop.llama_like import LlamaLike, expert_of, sparse_words
from gptwright.interop.plain import layer
from gptwright.interop.rules import Table
from gptwright.interop.words import Words, their_activation
from gptwright.model.config import ModelConfig

_OURS = "layers.{n}.feed_forward."


class Mixtral(LlamaLike):
    """Mixtral (Jiang et al., 2024)."""

    MODEL_TYPE = "mixtral"
    ARCHITECTURE = "MixtralForCausalLM"
    WINDOWS = True
    MAY_BIAS = False
    THETA = 1000000.0
    DEFAULTS = LlamaLike.DEFAULTS | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "router_aux_loss_coef": 0.001,
    }

    def feed_forward(self, words: Words, index: int) -> dict[str, Any]:
        """Return the experts; the weights of a token's experts sum to 1."""
        del index
        return sparse_words(words, experts="num_local_experts", inner="intermediate_size", normalise=True)

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Mixtral's words."""
        mixture = layer(config, 0)["feed_forward"]
        return super().words(config) | {
            "intermediate_size": expert_of(mixture)["d_ff"],
            "hidden_act": their_activation(expert_of(mixture)["activation"]),
            "num_local_experts": mixture["n_experts"],
            "num_experts_per_tok": mixture["top_k"],
            "sliding_window": self.windows(config)[0],
            "router_aux_loss_coef": _weight(config, 0),
        }

    def table(self, config: ModelConfig) -> Table:
        """Return Mixtral's names."""
        sparse = "model.layers.{n}.block_sparse_moe."
        parts = {"gate": "w1", "down": "w2", "up": "w3"}
        return {
            **super().table(config),
            _OURS + "router": sparse + "gate",
            **{f"{_OURS}experts.{{e}}.{ours}_proj": f"{sparse}experts.{{e}}.{its}" for ours, its in parts.items()},
        }


class Qwen3MoE(Qwen3):
    """Qwen3-MoE (Yang et al., 2025): experts in some layers, or in all."""

    MODEL_TYPE = "qwen3_moe"
    ARCHITECTURE = "Qwen3MoeForCausalLM"
    DEFAULTS = Qwen3.DEFAULTS | {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "head_dim": None,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "norm_topk_prob": False,
        "router_aux_loss_coef": 0.001,
    }

    def window(self, words: Words, index: int) -> int | None:
        """Return the one window of all layers, or None."""
        del index
        has = words.flag("use_sliding_window") and words["sliding_window"] is not None
        return words.count("sliding_window") if has else None

    def feed_forward(self, words: Words, index: int) -> dict[str, Any]:
        """Return the experts of a layer that has some, else its plain feed-forward."""
        experts = "num_local_experts" if "num_local_experts" in words else "num_experts"
        dense = index in (words["mlp_only_layers"] or ()) or (index + 1) % words.count("decoder_sparse_step")
        if dense or words[experts] == 0:
            return super().feed_forward(words, index)
        normalise = words.flag("norm_topk_prob")
        return sparse_words(words, experts=experts, inner="moe_intermediate_size", normalise=normalise)

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Qwen3-MoE's words."""
        found = [layer(config, index)["feed_forward"] for index in range(config.n_layers)]
        dense = [index for index, one in enumerate(found) if one["type"] != "moe"]
        first = next((index for index in range(config.n_layers) if index not in dense), 0)
        mixture = found[first]
        inner = found[dense[0]]["d_ff"] if dense else expert_of(mixture)["d_ff"]
        sizes = {size for size in self.windows(config) if size is not None}
        said = super().words(config)
        said.pop("layer_types")
        return said | {
            "intermediate_size": inner,
            "hidden_act": their_activation(expert_of(mixture)["activation"]),
            "moe_intermediate_size": expert_of(mixture)["d_ff"],
            "num_experts": mixture["n_experts"],
            "num_experts_per_tok": mixture["top_k"],
            "norm_topk_prob": mixture["normalise"],
            "decoder_sparse_step": 1,
            "mlp_only_layers": dense,
            "sliding_window": min(sizes, default=None),
            "router_aux_loss_coef": _weight(config, first),
        }

    def table(self, config: ModelConfig) -> Table:
        """Return Qwen3-MoE's names."""
        sparse, parts = "model.layers.{n}.mlp.", ("gate_proj", "up_proj", "down_proj")
        return {
            **super().table(config),
            _OURS + "router": sparse + "gate",
            **{f"{_OURS}experts.{{e}}.{part}": f"{sparse}experts.{{e}}.{part}" for part in parts},
        }


def _weight(config: ModelConfig, index: int) -> float:
    """Return the weight of the balancing loss, 0 where there is none."""
    return getattr(config.layer(index)[1], "loss_weight", 0.0)
