"""GPT-NeoX and Pythia (Black et al., 2022; Biderman et al., 2023)."""

from typing import Any, ClassVar

from gptwright.interop.families.gpt2 import QKV
from gptwright.interop.family import Family
from gptwright.interop.plain import layer, norm_eps
from gptwright.interop.rope import parameters, parameters_of, position_of
from gptwright.interop.rules import Table, by_head
from gptwright.interop.words import Words, their_activation
from gptwright.model.config import ModelConfig


class GPTNeoX(Family):
    """Both parts side by side behind norms of their own, a share of each head turned by rotary positions."""

    MODEL_TYPE = "gpt_neox"
    ARCHITECTURE = "GPTNeoXForCausalLM"
    BASE = "gpt_neox."
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "vocab_size": 50432,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "hidden_act": "gelu",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000.0,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "tie_word_embeddings": False,
    }
    SURPLUS = ("*.rotary_emb.inv_freq", "*.attention.bias", "*.attention.masked_bias")

    def settings(self, words: Words) -> dict[str, Any]:
        """Return the settings of our model."""
        width, heads, bias = (
            words.count("hidden_size"),
            words.count("num_attention_heads"),
            words.flag("attention_bias"),
        )
        rope = parameters(words, theta="rotary_emb_base", share="rotary_pct")
        return {
            "d_model": width,
            "n_layers": words.count("num_hidden_layers"),
            "max_seq_len": words.count("max_position_embeddings"),
            "attention": {
                "type": "softmax",
                "n_heads": heads,
                "qkv_bias": bias,
                "out_bias": bias,
                "attention_dropout": words.number("attention_dropout"),
            },
            "feed_forward": {
                "type": "mlp",
                "d_ff": words.count("intermediate_size"),
                "activation": words.activation("hidden_act"),
            },
            "norm": {"type": "layer_norm", "eps": words.number("layer_norm_eps")},
            "position": position_of(rope, words, head_dim=max(1, width // heads), partial=True),
            "wiring": "parallel_norms" if words.flag("use_parallel_residual") else "pre",
            "dropout": words.number("hidden_dropout"),
            "bias": True,
            "tie_embeddings": words.flag("tie_word_embeddings"),
        }

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return GPT-NeoX's words."""
        found = layer(config, 0)
        attention, feed_forward = found["attention"], found["feed_forward"]
        position = config.context(0).position.to_dict()
        return {
            "hidden_size": config.d_model,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": attention["n_heads"],
            "max_position_embeddings": config.max_seq_len,
            "intermediate_size": feed_forward["d_ff"],
            "hidden_act": their_activation(feed_forward["activation"]),
            "attention_bias": attention["qkv_bias"],
            "attention_dropout": getattr(config.layer(0)[0], "attention_dropout", 0.0),
            "hidden_dropout": config.dropout,
            "layer_norm_eps": norm_eps(config),
            "use_parallel_residual": config.wiring == "parallel_norms",
            "rope_parameters": parameters_of(position, attention["head_dim"], partial=True),
            "tie_word_embeddings": config.tie_embeddings,
        }

    def table(self, config: ModelConfig) -> Table:
        """Return GPT-NeoX's names."""
        block = "gpt_neox.layers.{n}."
        return {
            "token_embedding": "gpt_neox.embed_in",
            "layers.{n}.attention_norm": block + "input_layernorm",
            QKV: (block + "attention.query_key_value", by_head(layer(config, 0)["attention"]["n_heads"])),
            "layers.{n}.attention.o_proj": block + "attention.dense",
            "layers.{n}.feed_forward_norm": block + "post_attention_layernorm",
            "layers.{n}.feed_forward.up_proj": block + "mlp.dense_h_to_4h",
            "layers.{n}.feed_forward.down_proj": block + "mlp.dense_4h_to_h",
            "final_norm": "gpt_neox.final_layer_norm",
            "lm_head": "embed_out",
        }
