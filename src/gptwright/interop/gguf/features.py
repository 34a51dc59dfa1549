"""A model described in a few words, by which it is compared with what llama.cpp computes."""

from typing import Any

from gptwright.model.config import ModelConfig

Features = dict[str, str]
"""A word for each feature; each value is fit to be told to a user."""

PLAIN: Features = {
    "attention": "softmax",
    "layers": "alike",
    "position": "rotary",
    "rotary fraction": "1",
    "rotary scaling": "none",
    "norm": "rms_norm",
    "norm bias": "no",
    "qk_norm": "none",
    "wiring": "pre",
    "feed_forward": "glu with silu",
    "qkv_bias": "no",
    "out_bias": "no",
    "feed-forward bias": "no",
    "head_bias": "no",
    "softcap": "none",
    "logit_softcap": "none",
    "sinks": "no",
    "attention.scale": "default",
    "embedding_scale": "1",
    "residual_scale": "1",
    "layer_scale": "none",
    "value_residual": "0",
    "d_embedding": "d_model",
    "embedding_norm": "none",
    "n_heads x head_dim": "d_model",
    "tie_embeddings": "yes",
}
"""The features, in the order in which they are told, each with its plain word."""


def describe(config: ModelConfig) -> Features:
    """Return the words of each feature of a model."""
    attention, feed_forward = config.layer(0)
    ctx = config.context(0)
    found = {
        "attention": _attention(config),
        "layers": "alike" if _alike(config) else "of different settings",
        "position": _positions(config),
        "norm": _norm(config.norm),
        "norm bias": _yes(config.norm.type == "layer_norm" and ctx.use_bias(getattr(config.norm, "bias", None))),
        "wiring": config.wiring,
        "feed_forward": _feed_forward(config, feed_forward),
        "feed-forward bias": _yes(_ff_bias(config, feed_forward)),
        "head_bias": _yes(config.head_bias),
        "logit_softcap": "none" if config.logit_softcap is None else "set",
        "embedding_scale": _factor(config.embedding_factor, 1.0, "1", (config.d_model**0.5, "sqrt(d_model)")),
        "residual_scale": _factor(config.residual_factor, 1.0, "1"),
        "layer_scale": "none" if config.layer_scale is None else "set",
        "value_residual": f"{config.value_residual:g}",
        "d_embedding": "d_model" if config.embedding_width == config.d_model else str(config.embedding_width),
        "embedding_norm": "none" if config.embedding_norm is None else _norm(config.embedding_norm),
        "tie_embeddings": _yes(config.tie_embeddings),
    }
    every = found | _rotary(config) | _heads(config, attention, ctx)
    return {name: every[name] for name in PLAIN}


def _heads(config: ModelConfig, attention: Any, ctx: Any) -> Features:
    """Return the words about heads; of an attention without queries and keys of the usual kind, that there are none."""
    if attention.type not in ("softmax", "local"):
        return {name: PLAIN[name] for name in ("qk_norm", "qkv_bias", "out_bias", "softcap", "sinks")} | {
            "attention.scale": "default",
            "n_heads x head_dim": "d_model",
        }
    width = attention.width(ctx)
    qk_norm = "none" if attention.qk_norm is None else _norm(attention.qk_norm)
    eps = getattr(config.norm, "eps", None)
    if qk_norm == "rms_norm" and getattr(attention.qk_norm, "eps", None) != eps:
        qk_norm = f"rms_norm of another eps than the model's {eps:g}"
    return {
        "qk_norm": qk_norm,
        "qkv_bias": _yes(ctx.use_bias(attention.qkv_bias)),
        "out_bias": _yes(ctx.use_bias(attention.out_bias)),
        "softcap": "none" if attention.softcap is None else "set",
        "sinks": _yes(attention.sinks),
        "attention.scale": _factor(attention.scale or width**-0.5, usual_scale(config), "default"),
        "n_heads x head_dim": "d_model" if attention.n_heads * width == config.d_model else "another width",
    }


def usual_scale(config: ModelConfig) -> float:
    """Return the factor on scores that llama.cpp takes: of Gemma's 27B models, known by their depth, another one."""
    attention = config.layer(0)[0]
    of_27b = {46: config.logit_softcap is not None, 62: attention.qk_norm is not None}
    if config.wiring == "sandwich" and of_27b.get(config.n_layers, False):
        return (config.d_model // attention.n_heads) ** -0.5
    return attention.width(config.context(0)) ** -0.5


def is_local(config: ModelConfig, layer: int) -> bool:
    """Say whether the window of a layer hides anything within the context, or its kind has positions of its own."""
    attention = config.layer(layer)[0]
    own = any(block.position is not None for block in config.blocks.values())
    return attention.type == "local" and (own or attention.window < config.max_seq_len)


def _attention(config: ModelConfig) -> str:
    """Return the kinds of attention, a window as long as the context counting as none."""
    kinds = [config.layer(layer)[0].type for layer in range(config.n_layers)]
    other = [kind for kind in dict.fromkeys(kinds) if kind not in ("softmax", "local")]
    if other:
        return " and ".join(dict.fromkeys(kinds))
    local = [is_local(config, layer) for layer in range(config.n_layers)]
    if not any(local):
        return "softmax"
    for period, word in ((2, "2nd"), (6, "6th")):
        if local == [(layer + 1) % period != 0 for layer in range(config.n_layers)]:
            return f"local, every {word} layer softmax"
    return "local everywhere" if all(local) else "local in some layers"


def _alike(config: ModelConfig) -> bool:
    """Say whether layers differ in nothing but their windows and positions."""
    found = set()
    for layer in range(config.n_layers):
        attention, feed_forward = (part.to_dict() for part in config.layer(layer))
        found.add(repr(({k: v for k, v in attention.items() if k not in ("type", "window")}, feed_forward)))
    windows = {config.layer(layer)[0].window for layer in range(config.n_layers) if is_local(config, layer)}
    return len(found) == 1 and len(windows) < 2


def _positions(config: ModelConfig) -> str:
    """Return the positions, and in which layers they differ."""
    positions: list[Any] = [config.context(layer).position for layer in range(config.n_layers)]
    kinds = [position.type for position in positions]
    if len({repr(position.to_dict()) for position in positions}) == 1:
        return kinds[0]
    if kinds == ["none" if layer % 4 == 3 else "rotary" for layer in range(config.n_layers)]:
        return "rotary, none in every 4th layer"
    local = [is_local(config, layer) for layer in range(config.n_layers)]
    where = {(repr(position.to_dict()), is_near) for position, is_near in zip(positions, local, strict=True)}
    plain = all(p.fraction == 1 and p.scaling is None for p, near in zip(positions, local, strict=True) if near)
    if set(kinds) == {"rotary"} and len(where) == 2 and plain:
        return "rotary of another theta where local"
    return " and ".join(dict.fromkeys(kinds)) + " in different layers"


def rotary_of(config: ModelConfig, *, local: bool = False) -> Any:
    """Return the settings of the rotary positions of layers that are (not) local, or None."""
    for layer in range(config.n_layers):
        position = config.context(layer).position
        if position.type == "rotary" and is_local(config, layer) == local:
            return position
    return rotary_of(config) if local else None


def _rotary(config: ModelConfig) -> Features:
    position = rotary_of(config) or rotary_of(config, local=True)
    if position is None:
        return {"rotary fraction": "1", "rotary scaling": "none"}
    scaling = position.scaling
    word = "none" if scaling is None else scaling.type
    if word == "yarn" and not is_usual_yarn(scaling):
        word = "yarn with settings of its own"
    return {"rotary fraction": "1" if position.fraction == 1 else "less than 1", "rotary scaling": word}


def is_usual_yarn(scaling: Any) -> bool:
    """Say whether a YaRN scaling has the settings of its paper, which llama.cpp takes."""
    own = (scaling.beta_fast, scaling.beta_slow, scaling.truncate, scaling.attention_factor)
    return own == (32.0, 1.0, True, None)


def _feed_forward(config: ModelConfig, found: Any) -> str:
    if found.type in ("glu", "mlp"):
        return f"{found.type} with {found.activation}"
    if found.type != "moe":
        return found.type
    expert = found.expert_config()
    odd = {
        "n_shared": found.n_shared,
        "scale": found.scale != 1,
        "router sigmoid": found.router != "softmax",
        "balance bias": found.balance == "bias",
        "biases": _ff_bias(config, expert),
        "weights not normalised": not found.normalises,
    }
    wrong = [name for name, is_odd in odd.items() if is_odd]
    kind = f"moe of {expert.type} with {getattr(expert, 'activation', '?')}"
    return kind + (f" and {', '.join(wrong)}" if wrong else "")


def _ff_bias(config: ModelConfig, found: Any) -> bool:
    return config.context(0).use_bias(getattr(found, "bias", False)) if found.type in ("glu", "mlp") else False


def _norm(norm: Any) -> str:
    return norm.type


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _factor(value: float, plain: float, word: str, other: tuple[float, str] | None = None) -> str:
    if abs(value - plain) <= 1e-6 * plain:
        return word
    if other is not None and abs(value - other[0]) <= 1e-6 * other[0]:
        return other[1]
    return "another factor"
