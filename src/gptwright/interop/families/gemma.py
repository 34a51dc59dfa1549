"""Gemma 1 to 3, the text models (Gemma Team, 2024 and 2025)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from gptwright.interop.llama_like import FULL, SLIDING, LlamaLike
from gptwright.interop.plain import layer
from gptwright.interop.rope import parameters, parameters_of, position_of
from gptwright.interop.rules import Table
from gptwright.interop.words import Words
from gptwright.model.config import ModelConfig


class Gemma(LlamaLike):
    """Norms that multiply by one more than their weight, embeddings multiplied by the root of their width."""

    MODEL_TYPE = "gemma"
    ARCHITECTURE = "GemmaForCausalLM"
    DEFAULTS = LlamaLike.DEFAULTS | {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }

    def settings(self, words: Words) -> dict[str, Any]:
        """Return the settings of our model."""
        words.only("use_bidirectional_attention", None, False, what="attention to later tokens")
        return super().settings(words) | {"embedding_scale": "width"}

    def norm_words(self) -> dict[str, Any]:
        """Return that norms multiply by one more than their weight."""
        return {"unit_offset": True}

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Gemma's words."""
        return super().words(config) | {"attention_bias": layer(config, 0)["attention"]["qkv_bias"]}


class Gemma2(Gemma):
    """Norms on both sides, bounded scores and logits, every other layer with a window."""

    MODEL_TYPE = "gemma2"
    ARCHITECTURE = "Gemma2ForCausalLM"
    BEND = "hidden_activation"
    EVERY = 2
    BOUNDED: ClassVar[bool] = True
    """Whether scores are bounded; Gemma 3 has the word, and `transformers` does nothing by it."""
    DEFAULTS = Gemma.DEFAULTS | {
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    }

    def settings(self, words: Words) -> dict[str, Any]:
        """Return the settings of our model."""
        cap = words["final_logit_softcapping"]
        return super().settings(words) | {"wiring": "sandwich", **({"logit_softcap": float(cap)} if cap else {})}

    def attention(self, words: Words, index: int) -> dict[str, Any]:
        """Return the attention of one layer."""
        found = super().attention(words, index) | {"scale": words.number("query_pre_attn_scalar") ** -0.5}
        cap = words["attn_logit_softcapping"] if self.BOUNDED else None
        return found | ({"softcap": float(cap)} if cap else {})

    def window(self, words: Words, index: int) -> int | None:
        """Return the window of a layer that has one."""
        return self.listed_window(words, self._kinds(words), index)

    def _kinds(self, words: Words) -> list[str]:
        every = words.count_or("sliding_window_pattern", self.EVERY)
        return [SLIDING if (i + 1) % every else FULL for i in range(words.count("num_hidden_layers"))]

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Gemma 2's words."""
        attention = layer(config, 0)["attention"]
        said = super().words(config) | self.listed_words(config)
        said.pop("use_sliding_window")
        scalar = attention["scale"] ** -2
        return said | {
            "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar,
            "attn_logit_softcapping": attention["softcap"],
            "final_logit_softcapping": config.logit_softcap,
            "sliding_window": said["sliding_window"] or self.DEFAULTS["sliding_window"],
        }

    def table(self, config: ModelConfig) -> Table:
        """Return Gemma 2's names."""
        block = "model.layers.{n}."
        return {
            **super().table(config),
            "layers.{n}.attention_post_norm": block + "post_attention_layernorm",
            "layers.{n}.feed_forward_norm": block + "pre_feedforward_layernorm",
            "layers.{n}.feed_forward_post_norm": block + "post_feedforward_layernorm",
        }


class Gemma3(Gemma2):
    """Queries and keys normalised, five layers with a window and a theta of their own to one without."""

    MODEL_TYPE = "gemma3_text"
    ARCHITECTURE = "Gemma3ForCausalLM"
    THETA = 1000000.0
    LOCAL_THETA = 10000.0
    EVERY = 6
    BOUNDED = False
    DEFAULTS = Gemma2.DEFAULTS | {
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rope_local_base_freq": None,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    }

    def attention(self, words: Words, index: int) -> dict[str, Any]:
        """Return the attention of one layer."""
        norm = {"type": "rms_norm", "eps": words.number("rms_norm_eps"), "unit_offset": True}
        return super().attention(words, index) | {"qk_norm": norm}

    def layer(self, words: Words, index: int) -> dict[str, Any]:
        """Return the parts of one layer; those with a window have positions of their own."""
        found = super().layer(words, index)
        return found | ({"position": self._local(words)} if found["attention"]["type"] == "local" else {})

    def position(self, words: Words) -> dict[str, Any]:
        """Return the positions of layers without a window."""
        said = words["rope_parameters"]
        given = said.get(FULL) if isinstance(said, Mapping) else None
        found = {**parameters(words), **(given or {})}
        return position_of(found, words, head_dim=self.head_dim(words), default_theta=self.THETA)

    def _local(self, words: Words) -> dict[str, Any]:
        said = words["rope_parameters"]
        given = said.get(SLIDING) if isinstance(said, Mapping) else None
        found = {"rope_theta": words["rope_local_base_freq"], **(given or {})}
        return position_of(found, words, head_dim=self.head_dim(words), default_theta=self.LOCAL_THETA)

    def rope_words(self, config: ModelConfig) -> dict[str, Any]:
        """Return what is said of rotary positions, by kind of layer."""
        found: dict[str, Any] = {}
        for index, window in enumerate(self.windows(config)):
            head_dim = layer(config, index)["attention"]["head_dim"]
            position = config.context(index).position.to_dict()
            found.setdefault(FULL if window is None else SLIDING, parameters_of(position, head_dim))
        return found

    def table(self, config: ModelConfig) -> Table:
        """Return Gemma 3's names."""
        norms = {f"layers.{{n}}.attention.{p}_norm": f"model.layers.{{n}}.self_attn.{p}_norm" for p in "qk"}
        return {**super().table(config), **norms}
