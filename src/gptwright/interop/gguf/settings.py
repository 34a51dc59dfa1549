"""What llama.cpp must know of a model beside its tensors, under its own words."""

from typing import Any

from gptwright.interop.gguf.features import is_local, is_usual_yarn, rotary_of
from gptwright.interop.gguf.library import library
from gptwright.interop.gguf.shapes import Match
from gptwright.model.config import ModelConfig
from gptwright.ops.rotary import stretched_theta

NO_WINDOW = 1 << 24
"""A window that hides nothing, for architectures that always have one."""


def add_settings(writer: Any, found: Match, config: ModelConfig) -> None:
    """Add sizes, norms, positions and factors to a `gguf.GGUFWriter`."""
    attention, feed_forward = config.layer(0)
    width, name = attention.width(config.context(0)), found.architecture.name
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_vocab_size(config.require_vocab_size())
    writer.add_head_count(attention.n_heads)
    writer.add_head_count_kv(attention.kv_heads())
    writer.add_key_length(width)
    writer.add_value_length(width)
    add_eps = writer.add_layer_norm_eps if config.norm.type == "layer_norm" else writer.add_layer_norm_rms_eps
    add_eps(config.norm.eps)  # pyright: ignore[reportAttributeAccessIssue]
    _add_feed_forward(writer, config, feed_forward)
    _add_rotary(writer, config, width)
    {"gptneox": _gptneox, "granite": _granite, "gemma2": _gemma2, "gemma3": _gemma3}.get(name, _nothing)(
        writer, config, attention
    )


def _add_feed_forward(writer: Any, config: ModelConfig, feed_forward: Any) -> None:
    ctx = config.context(0)
    if feed_forward.type != "moe":
        writer.add_feed_forward_length(feed_forward.width(ctx))
        return
    width = feed_forward.expert_config().width(ctx)
    writer.add_feed_forward_length(width)
    writer.add_expert_feed_forward_length(width)
    writer.add_expert_count(feed_forward.n_experts)
    writer.add_expert_used_count(feed_forward.top_k)


def _add_rotary(writer: Any, config: ModelConfig, width: int) -> None:
    position = rotary_of(config) or rotary_of(config, local=True)
    if position is None:
        return
    turned, scaling = position.rotated(width), position.scaling
    writer.add_rope_dimension_count(turned)
    if scaling is None or own_frequencies(position):
        writer.add_rope_freq_base(position.theta)
        if scaling is not None and scaling.magnitude() != 1:
            writer.add_rope_scaling_attn_factors(scaling.magnitude())
    elif scaling.type == "ntk":
        writer.add_rope_freq_base(stretched_theta(turned, position.theta, scaling.factor))
    else:
        kinds = library().RopeScalingType
        writer.add_rope_freq_base(position.theta)
        writer.add_rope_scaling_type(kinds.YARN if scaling.type == "yarn" else kinds.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)
        if scaling.type == "yarn":
            writer.add_rope_scaling_orig_ctx_len(scaling.original_max_seq_len)


def own_frequencies(position: Any) -> bool:
    """Say whether the frequencies of a rotary position must be written as factors, since no setting means them."""
    scaling = position.scaling
    if scaling is None or scaling.type in ("linear", "ntk"):
        return False
    return scaling.type != "yarn" or not is_usual_yarn(scaling)


def _nothing(writer: Any, config: ModelConfig, attention: Any) -> None:
    del writer, config, attention


def _gptneox(writer: Any, config: ModelConfig, attention: Any) -> None:
    del attention
    writer.add_parallel_residual(config.wiring == "parallel_norms")


def _granite(writer: Any, config: ModelConfig, attention: Any) -> None:
    writer.add_embedding_scale(config.embedding_factor)
    writer.add_residual_scale(config.residual_factor)
    writer.add_attention_scale(attention.scale or attention.width(config.context(0)) ** -0.5)
    writer.add_logit_scale(1.0)


def _gemma2(writer: Any, config: ModelConfig, attention: Any) -> None:
    writer.add_attn_logit_softcapping(attention.softcap)
    writer.add_final_logit_softcapping(config.logit_softcap)
    _add_window(writer, config)


def _gemma3(writer: Any, config: ModelConfig, attention: Any) -> None:
    del attention
    _add_window(writer, config)
    writer.add_rope_freq_base_swa(rotary_of(config, local=True).theta)


def _add_window(writer: Any, config: ModelConfig) -> None:
    windows = [config.layer(layer)[0].window for layer in range(config.n_layers) if is_local(config, layer)]
    writer.add_sliding_window(windows[0] if windows else NO_WINDOW)
