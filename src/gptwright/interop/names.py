"""Other people's words, translated into ours: this is the one file that knows them.

A word leads to a place below `model`; a component of a published design, named by the file and the class that it had
there, to the name of ours.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

from gptwright.config.report import did_you_mean
from gptwright.errors import ConfigError

_PLACES = {
    "vocab_size": "vocab vocab_size",
    "max_seq_len": "seq block_size context_length max_seq_length n_positions n_ctx max_position_embeddings",
    "d_model": "dim d_in n_embd emb_dim hidden_size",
    "n_layers": "n_layers n_layer num_layers num_hidden_layers",
    "dropout": "dropout drop_rate resid_pdrop",
    "bias": "bias",
    "tie_embeddings": "tie_weights tie_word_embeddings",
    "position": "pos_type",
    "attention.n_heads": "n_heads n_head num_heads num_attention_heads",
    "attention.n_kv_heads": "num_key_value_heads",
    "attention.head_dim": "d_out",
    "attention.qkv_bias": "qkv_bias",
    "attention.attention_dropout": "attention_dropout attn_pdrop",
    "attention.window": "window_size sliding_window",
    "feed_forward.d_ff": "hidden d_h n_inner intermediate_size",
    "feed_forward.n_experts": "num_experts num_local_experts",
    "feed_forward.top_k": "num_experts_per_tok",
}
PLACES = {word: place for place, words in _PLACES.items() for word in words.split()}
"""Each word with the place below `model` that it means."""

COMPONENTS = {
    "attention": {
        "flash_attention": ("FlashAttention", "softmax"),
        "linear_attention": ("LinearAttention", "linear"),
        "local_window_attention": ("LocalWindowAttention", "local"),
    },
    "ffn": {
        "ff_standard": ("FeedForward", "mlp"),
        "ff_swiglu": ("GatedFeedForward", "glu"),
        "ff_moe": ("MoE", "moe"),
    },
    "norm": {
        "layernorm": ("LayerNorm", "layer_norm"),
        "rmsnorm": ("RMSNorm", "rms_norm"),
        "scalenorm": ("ScaleNorm", "scale_norm"),
    },
}
"""By kind and file: the class that a published design finds there, and the component of ours that it is."""

_WITHOUT_A_WORD = (", or set head_dim",)
"""Ways out that our messages offer and that these vocabularies have no word for."""


def translate(words: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a model: ``base``, in our words, with ``words`` put in their places."""
    settings = copy.deepcopy(dict(base))
    for word, value in words.items():
        part, _, key = PLACES[word].rpartition(".")
        if part and isinstance(settings.get(part), str):
            settings[part] = {"type": settings[part]}
        place = settings.setdefault(part, {}) if part else settings
        place[key] = value
    return settings


def in_words_of(message: str, words: Mapping[str, Any]) -> str:
    """Return ``message`` with our names of the settings replaced by those of ``words`` that they came from."""
    names = {PLACES[word]: word for word in words}
    names |= {place.rpartition(".")[2]: word for place, word in names.items()}
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    for way_out in _WITHOUT_A_WORD:
        message = message.replace(way_out, "")
    return re.sub(rf"(?<![\w.])({known})(?:\.type)?(?!\w|\.\w)", lambda found: names[found[1]], message)


def component(kind: str, file: str, class_name: str | None) -> str:
    """Return our name of the component of a published design, or ``file:class_name`` for anybody's own.

    Raises:
        ConfigError: the file is not known and no class is named, or the class is not the one in that file.
    """
    known = COMPONENTS[kind]
    if file not in known and class_name:
        return f"{file}:{class_name}"
    if file not in known:
        raise ConfigError(f"{kind}_type '{file}' is not known{did_you_mean(file, known)} ({menu(kind)})")
    there, ours = known[file]
    if class_name not in (None, there):
        raise ConfigError(
            f"{kind}_type '{file}' has the class {there}, and {kind}_class is '{class_name}'; "
            f"write {kind}_class: {there}, or name the file that has {class_name}"
        )
    return ours


def menu(kind: str) -> str:
    """Return what may be named, as one phrase."""
    return f"known: {', '.join(COMPONENTS[kind])}, or a module of your own with its class in {kind}_class"
