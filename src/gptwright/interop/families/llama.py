"""Llama and those who only add a word or two: Mistral, Qwen2, Qwen3, SmolLM3."""

from typing import Any

from gptwright.interop.llama_like import FULL, SLIDING, LlamaLike
from gptwright.interop.plain import layer
from gptwright.interop.rules import Table
from gptwright.interop.words import Words
from gptwright.model.config import ModelConfig


class Llama(LlamaLike):
    """Llama 1 to 3 (Touvron et al., 2023; Dubey et al., 2024)."""

    MODEL_TYPE = "llama"
    ARCHITECTURE = "LlamaForCausalLM"

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Llama's words."""
        found = layer(config, 0)
        biases = {
            "attention_bias": found["attention"]["qkv_bias"],
            "mlp_bias": found["feed_forward"].get("bias", False),
        }
        return super().words(config) | biases


class Mistral(LlamaLike):
    """Mistral (Jiang et al., 2023): a sliding window."""

    MODEL_TYPE = "mistral"
    ARCHITECTURE = "MistralForCausalLM"
    WINDOWS = True
    MAY_BIAS = False
    DEFAULTS = LlamaLike.DEFAULTS | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    }

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Mistral's words."""
        return super().words(config) | {"sliding_window": self.windows(config)[0]}


class Qwen2(LlamaLike):
    """Qwen2 and 2.5 (Yang et al., 2024): biases of queries, keys and values; windows in upper layers."""

    MODEL_TYPE = "qwen2"
    ARCHITECTURE = "Qwen2ForCausalLM"
    OWN_TOKENIZER = True
    DEFAULTS = LlamaLike.DEFAULTS | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }

    def biases(self, words: Words) -> dict[str, Any]:
        """Return biases of queries, keys and values."""
        del words
        return {"qkv_bias": True}

    def window(self, words: Words, index: int) -> int | None:
        """Return the window of layers from `max_window_layers` on, or of those that are listed."""
        has = words.flag("use_sliding_window") and words["sliding_window"] is not None
        first = words["max_window_layers"]
        kinds = [SLIDING if has and i >= first else FULL for i in range(words.count("num_hidden_layers"))]
        if not has and SLIDING in (words["layer_types"] or []):
            words.cannot("sliding layers without a sliding_window")
        return self.listed_window(words, kinds, index) if has else None

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Qwen's words."""
        return super().words(config) | self.listed_words(config)


class Qwen3(Qwen2):
    """Qwen3 (Yang et al., 2025): queries and keys normalised in each head."""

    MODEL_TYPE = "qwen3"
    ARCHITECTURE = "Qwen3ForCausalLM"
    OWN_TOKENIZER = False
    DEFAULTS = Qwen2.DEFAULTS | {"head_dim": 128}

    def biases(self, words: Words) -> dict[str, Any]:
        """Return biases of all projections, or of none."""
        return LlamaLike.biases(self, words)

    def attention(self, words: Words, index: int) -> dict[str, Any]:
        """Return the attention of one layer."""
        return super().attention(words, index) | {"qk_norm": {"type": "rms_norm", "eps": words.number("rms_norm_eps")}}

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return Qwen3's words."""
        return super().words(config) | {"attention_bias": layer(config, 0)["attention"]["qkv_bias"]}

    def table(self, config: ModelConfig) -> Table:
        """Return Qwen3's names."""
        norms = {f"layers.{{n}}.attention.{p}_norm": f"model.layers.{{n}}.self_attn.{p}_norm" for p in "qk"}
        return {**super().table(config), **norms}


class SmolLM3(LlamaLike):
    """SmolLM3 (Bakouch et al., 2025): every fourth layer without positions."""

    MODEL_TYPE = "smollm3"
    ARCHITECTURE = "SmolLM3ForCausalLM"
    THETA = 2000000.0
    DEFAULTS = LlamaLike.DEFAULTS | {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
    }

    def layer(self, words: Words, index: int) -> dict[str, Any]:
        """Return the parts of one layer, without positions where it has none."""
        found = super().layer(words, index)
        return found if self._turned(words)[index] else found | {"position": "none"}

    def _turned(self, words: Words) -> list[bool]:
        """Return for each layer whether it has rotary positions."""
        count, every = words.count("num_hidden_layers"), words.count("no_rope_layer_interval")
        given = words["no_rope_layers"]  # 1 is a layer WITH positions, whatever the word says
        return [bool(one) for one in given] if given else [(i + 1) % every != 0 for i in range(count)]

    def window(self, words: Words, index: int) -> int | None:
        """Return the window of layers without positions, or of those that are listed."""
        words.understood("layer_types")
        if not words.flag("use_sliding_window") or words["sliding_window"] is None:
            return None
        kinds = [FULL if turned else SLIDING for turned in self._turned(words)]
        return self.listed_window(words, kinds, index)

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return SmolLM3's words."""
        found = layer(config, 0)
        turned = [int(layer(config, i)["position"]["type"] != "none") for i in range(config.n_layers)]
        biases = {
            "attention_bias": found["attention"]["qkv_bias"],
            "mlp_bias": found["feed_forward"].get("bias", False),
        }
        return super().words(config) | self.listed_words(config) | biases | {"no_rope_layers": turned}
