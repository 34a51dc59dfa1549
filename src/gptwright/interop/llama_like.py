"""What most families of today share: Llama's wiring and names, with a few words of their own."""

from collections.abc import Mapping
from typing import Any, ClassVar

from gptwright.interop.family import Family
from gptwright.interop.plain import layer, norm_eps, stack
from gptwright.interop.rope import parameters, parameters_of, position_of
from gptwright.interop.rules import Table
from gptwright.interop.words import Words, their_activation
from gptwright.model.config import ModelConfig

SLIDING, FULL = "sliding_attention", "full_attention"
Part = dict[str, Any]


class LlamaLike(Family):
    """Pre-norm by root mean square, rotary positions, grouped heads, a gated feed-forward."""

    ARCHITECTURE: ClassVar[str]
    THETA: ClassVar[float] = 10000.0
    PARTIAL: ClassVar[bool] = False
    """Whether `partial_rotary_factor` is honoured."""
    WINDOWS: ClassVar[bool] = False
    """Whether layers may have a sliding window."""
    MAY_BIAS: ClassVar[bool] = True
    """Whether `attention_bias` is a word of this family."""
    BEND: ClassVar[str] = "hidden_act"
    """The word for the activation."""
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
    }

    # ---- in

    def settings(self, words: Words) -> Part:
        """Return the settings of our model."""
        width, count = words.count("hidden_size"), words.count("num_hidden_layers")
        layers = [self.layer(words, index) for index in range(count)]
        return {
            "d_model": width,
            "n_layers": count,
            "max_seq_len": words.count("max_position_embeddings"),
            "position": self.position(words),
            **stack(layers),  # perhaps with other positions
            "norm": {"type": "rms_norm", "eps": words.number("rms_norm_eps"), **self.norm_words()},
            "bias": False,
            "tie_embeddings": words.flag("tie_word_embeddings"),
        }

    def norm_words(self) -> Part:
        """Return what else is to be said of norms."""
        return {}

    def layer(self, words: Words, index: int) -> Part:
        """Return the parts of one layer."""
        return {"attention": self.attention(words, index), "feed_forward": self.feed_forward(words, index)}

    def attention(self, words: Words, index: int) -> Part:
        """Return the attention of one layer."""
        heads, width = words.count("num_attention_heads"), words.count("hidden_size")
        found: Part = {"type": "softmax", "n_heads": heads}
        found |= self.biases(words)
        if (kv_heads := words.count_or("num_key_value_heads", heads)) != heads:
            found["n_kv_heads"] = kv_heads
        if (head_dim := self.head_dim(words)) * heads != width:
            found["head_dim"] = head_dim
        if dropout := words["attention_dropout"]:
            found["attention_dropout"] = float(dropout)
        window = self.window(words, index)
        return found if window is None else found | {"type": "local", "window": window}

    def head_dim(self, words: Words) -> int:
        """Return the width of a head."""
        return words.count_or("head_dim", max(1, words.count("hidden_size") // words.count("num_attention_heads")))

    def biases(self, words: Words) -> Part:
        """Return which projections of the attention have biases."""
        return {"qkv_bias": True, "out_bias": True} if self.MAY_BIAS and words.flag("attention_bias") else {}

    def window(self, words: Words, index: int) -> int | None:
        """Return the positions that a layer sees, or None for all."""
        del index
        if not self.WINDOWS or words["sliding_window"] is None:
            return None
        return words.count("sliding_window")

    def listed_window(self, words: Words, kinds: list[str], index: int) -> int | None:
        """Return the window of a layer where a list says which layers have one."""
        given = words["layer_types"]
        kinds = list(given) if isinstance(given, list) else kinds
        if len(kinds) <= index or kinds[index] not in (SLIDING, FULL):
            words.cannot(f"layers of the kind {str(kinds[index : index + 1])[:60]} (layer_types)")
            return None
        return words.count("sliding_window") if kinds[index] == SLIDING else None

    def feed_forward(self, words: Words, index: int) -> Part:
        """Return the feed-forward of one layer."""
        del index
        found: Part = {
            "type": "glu",
            "d_ff": words.count("intermediate_size"),
            "activation": words.activation(self.BEND),
        }
        return found | ({"bias": True} if words.flag("mlp_bias") else {})

    def position(self, words: Words) -> Part:
        """Return the positions."""
        found, head_dim = parameters(words), self.head_dim(words)
        return position_of(found, words, head_dim=head_dim, partial=self.PARTIAL, default_theta=self.THETA)

    # ---- out

    def words(self, config: ModelConfig) -> Part:
        """Return the words that most families share."""
        first = layer(config, 0)
        attention, feed_forward = first["attention"], first["feed_forward"]
        return {
            "hidden_size": config.d_model,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": attention["n_heads"],
            "num_key_value_heads": attention["n_kv_heads"],
            "head_dim": attention["head_dim"],
            "intermediate_size": feed_forward.get("d_ff", config.d_model),
            self.BEND: their_activation(feed_forward.get("activation", "silu")),
            "max_position_embeddings": config.max_seq_len,
            "rms_norm_eps": norm_eps(config),
            "rope_parameters": self.rope_words(config),
            "attention_dropout": getattr(config.layer(0)[0], "attention_dropout", 0.0),
            "tie_word_embeddings": config.tie_embeddings,
        }

    def rope_words(self, config: ModelConfig) -> Part:
        """Return what is said of rotary positions."""
        positions = [config.context(index).position.to_dict() for index in range(config.n_layers)]
        position = next((one for one in positions if one["type"] == "rotary"), positions[0])
        return parameters_of(position, layer(config, 0)["attention"]["head_dim"], partial=self.PARTIAL)

    def windows(self, config: ModelConfig) -> list[int | None]:
        """Return the window of each layer."""
        return [layer(config, index)["attention"].get("window") for index in range(config.n_layers)]

    def listed_words(self, config: ModelConfig) -> Part:
        """Return which layers have a window, as a list says it."""
        windows = self.windows(config)
        sizes = [size for size in windows if size is not None]
        return {
            "use_sliding_window": bool(sizes),
            "sliding_window": sizes[0] if sizes else None,
            "layer_types": [FULL if size is None else SLIDING for size in windows],
        }

    # ---- tensors

    def table(self, config: ModelConfig) -> Table:
        """Return Llama's names."""
        del config
        block = "model.layers.{n}."
        return {
            "token_embedding": "model.embed_tokens",
            "layers.{n}.attention_norm": block + "input_layernorm",
            **{f"layers.{{n}}.attention.{part}_proj": f"{block}self_attn.{part}_proj" for part in "qkvo"},
            "layers.{n}.feed_forward_norm": block + "post_attention_layernorm",
            **{f"layers.{{n}}.feed_forward.{part}_proj": f"{block}mlp.{part}_proj" for part in ("gate", "up", "down")},
            "final_norm": "model.norm",
            "lm_head": "lm_head",
        }


def sparse_words(words: Words, *, experts: str, inner: str, normalise: bool) -> Part:
    """Return the settings of a mixture of experts with softmax routing."""
    return {
        "type": "moe",
        "n_experts": words.count(experts),
        "top_k": words.count("num_experts_per_tok"),
        "expert": {"type": "glu", "d_ff": words.count(inner), "activation": words.activation("hidden_act")},
        "normalise": normalise,
        "balance": "loss" if words["router_aux_loss_coef"] else "none",
        **({"balance_weight": float(words["router_aux_loss_coef"])} if words["router_aux_loss_coef"] else {}),
    }


def expert_of(mixture: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what an expert is; of no mixture, the feed-forward itself."""
    return mixture.get("expert", mixture)
