"""GPT-2 (Radford et al., 2019)."""

from typing import Any, ClassVar

from gptwright.interop.family import Family
from gptwright.interop.plain import layer, norm_eps, stack
from gptwright.interop.rules import TURNED, TURNED_ROWS, Table
from gptwright.interop.words import Words, their_activation
from gptwright.model.config import ModelConfig

QKV = tuple(f"layers.{{n}}.attention.{part}_proj" for part in "qkv")
"""Our three projections, which GPT-2 keeps in one matrix."""


class GPT2(Family):
    """Pre-norm, learned positions, biases everywhere; matrices with inputs before outputs."""

    MODEL_TYPE = "gpt2"
    ARCHITECTURE = "GPT2LMHeadModel"
    BASE = "transformer."
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
    }
    SURPLUS = ("*.attn.bias", "*.attn.masked_bias")

    def settings(self, words: Words) -> dict[str, Any]:
        """Return the settings of our model."""
        words.only("add_cross_attention", None, False, what="attention to an encoder")
        width = words.count("n_embd")
        layers = [
            {"attention": self._attention(words, index), "feed_forward": self._feed_forward(words, width)}
            for index in range(words.count("n_layer"))
        ]
        words.understood("embd_pdrop")  # ours is one dropout for embeddings and outputs
        return {
            "d_model": width,
            "n_layers": len(layers),
            "max_seq_len": words.count("n_positions"),
            **stack(layers),
            "norm": {"type": "layer_norm", "eps": words.number("layer_norm_epsilon")},
            "position": "learned",
            "dropout": words.number("resid_pdrop"),
            "bias": True,
            "tie_embeddings": words.flag("tie_word_embeddings"),
        }

    def _attention(self, words: Words, index: int) -> dict[str, Any]:
        heads = words.count("n_head")
        found: dict[str, Any] = {"type": "softmax", "n_heads": heads, "attention_dropout": words.number("attn_pdrop")}
        scale = (words.count("n_embd") // heads) ** -0.5 if words.flag("scale_attn_weights") else 1.0
        if words.flag("scale_attn_by_inverse_layer_idx"):
            scale /= index + 1
        usual = words.flag("scale_attn_weights") and not words.flag("scale_attn_by_inverse_layer_idx")
        return found if usual else found | {"scale": scale}

    def _feed_forward(self, words: Words, width: int) -> dict[str, Any]:
        inner = words.count_or("n_inner", 4 * width)
        return {"type": "mlp", "d_ff": inner, "activation": words.activation("activation_function")}

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return GPT-2's words."""
        attention, feed_forward = layer(config, 0)["attention"], layer(config, 0)["feed_forward"]
        usual = attention["head_dim"] ** -0.5
        scales = [layer(config, index)["attention"]["scale"] for index in range(config.n_layers)]
        inverse = len(scales) > 1 and scales == [scales[0] / (index + 1) for index in range(len(scales))]
        return {
            "n_embd": config.d_model,
            "n_layer": config.n_layers,
            "n_head": attention["n_heads"],
            "n_positions": config.max_seq_len,
            "n_inner": feed_forward["d_ff"],
            "activation_function": _activation(feed_forward["activation"]),
            "layer_norm_epsilon": norm_eps(config),
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": getattr(config.layer(0)[0], "attention_dropout", 0.0),
            "scale_attn_weights": scales[0] == usual,
            "scale_attn_by_inverse_layer_idx": inverse,
            "tie_word_embeddings": config.tie_embeddings,
        }

    def table(self, config: ModelConfig) -> Table:
        """Return GPT-2's names."""
        del config
        block = "transformer.h.{n}."
        return {
            "token_embedding": "transformer.wte",
            "position": "transformer.wpe",
            "layers.{n}.attention_norm": block + "ln_1",
            QKV: (block + "attn.c_attn", TURNED_ROWS),
            "layers.{n}.attention.o_proj": (block + "attn.c_proj", TURNED),
            "layers.{n}.feed_forward_norm": block + "ln_2",
            "layers.{n}.feed_forward.up_proj": (block + "mlp.c_fc", TURNED),
            "layers.{n}.feed_forward.down_proj": (block + "mlp.c_proj", TURNED),
            "final_norm": "transformer.ln_f",
            "lm_head": "lm_head",
        }


class GPT1(GPT2):
    """GPT-1 (Radford et al., 2018): norms after the sums, and none at the end."""

    MODEL_TYPE = "openai-gpt"
    ARCHITECTURE = "OpenAIGPTLMHeadModel"
    DEFAULTS = GPT2.DEFAULTS | {"vocab_size": 40478, "n_positions": 512, "afn": "gelu"}
    SURPLUS = ("*.attn.bias", "*.position_ids")
    _BENDS: ClassVar[dict[str, str]] = {
        "gelu": "gelu_tanh",
        "relu": "relu",
        "silu": "silu",
        "swish": "silu",
    }  # its gelu is the approximation

    def settings(self, words: Words) -> dict[str, Any]:
        """Return the settings of our model."""
        return super().settings(words) | {"wiring": "post"}

    def _feed_forward(self, words: Words, width: int) -> dict[str, Any]:
        if words["afn"] not in self._BENDS:
            words.cannot(f"the activation {words['afn']!r:.60} (afn)")
        return {"type": "mlp", "d_ff": 4 * width, "activation": self._BENDS.get(words["afn"], "gelu")}

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return GPT-1's words."""
        theirs = {ours: word for word, ours in reversed(self._BENDS.items())}
        found = super().words(config)
        for absent in ("n_inner", "activation_function", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"):
            found.pop(absent)
        bend = layer(config, 0)["feed_forward"]["activation"]
        return found | {"afn": theirs.get(bend, bend)}

    def table(self, config: ModelConfig) -> Table:
        """Return GPT-1's names."""
        found = {**super().table(config)}
        found.pop("final_norm")
        return found | {"token_embedding": "transformer.tokens_embed", "position": "transformer.positions_embed"}


def _activation(ours: str) -> str:
    return "gelu_new" if ours == "gelu_tanh" else their_activation(ours)
