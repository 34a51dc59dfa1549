"""Settings of a model with everything said: what two models must share to have the same logits.

Defaults are filled in, shorthands are resolved, layers stand one by one, and what matters in training alone is left
out. Two models compute the same if their plain settings are equal, so an export is right by construction: settings in
the words of a family are read back, and compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from gptwright.model.config import ModelConfig
from gptwright.nn.base import LayerContext
from gptwright.ops.rotary import stretched_theta

TRAINING_ONLY = {"dropout", "attention_dropout", "init", "balance_weight", "balance_rate", "z_weight"}
"""Settings that change no logit in eval mode."""
_WHOLE = ("vocab_size", "d_model", "n_layers", "max_seq_len", "wiring", "tie_embeddings", "value_residual")
ADDED = ("learned", "sinusoidal")
"""Positions that are added to embeddings, once for all layers."""


def plain(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of a model with everything said, by dotted path."""
    found: dict[str, Any] = {key: getattr(config, key) for key in _WHOLE}
    found["residual_factor"] = config.residual_factor
    found["embedding_width"] = config.embedding_width
    for key in ("layer_scale", "logit_softcap", "head_bias"):
        found[key] = getattr(config, key)
    found["embedding_scale"] = config.embedding_factor
    ctx = config.context(0)
    found |= _flat("norm", part(config.norm, ctx))
    if config.embedding_norm is not None:
        found |= _flat("embedding_norm", part(config.embedding_norm, ctx))
    if config.position.type in ADDED:
        found |= _flat("position", part(config.position, ctx))
    for index in range(config.n_layers):
        for name, value in layer(config, index).items():
            found |= _flat(f"layers.{index}.{name}", value)
    return found


def norm_eps(config: ModelConfig) -> float:
    """Return what the model's norm adds to the variance."""
    return getattr(config.norm, "eps", 1e-5)


class Said(dict[str, Any]):
    """Settings of a part, which may be asked for what only others have: a family looks before it knows that it fits."""

    OTHERWISE: ClassVar[dict[str, Any]] = {
        "activation": "silu",
        "head_dim": 8,
        "normalise": True,
        "qkv_bias": False,
        "softcap": None,
    }

    def __missing__(self, key: str) -> Any:
        return self.OTHERWISE.get(key, 1)


def layer(config: ModelConfig, index: int) -> dict[str, Said]:
    """Return the parts of one layer with everything said: `attention`, `feed_forward` and `position`."""
    ctx = config.context(index)
    attention, feed_forward = config.layer(index)
    found = {"attention": part(attention, ctx), "feed_forward": part(feed_forward, ctx)}
    found["position"] = _position(part(ctx.position, ctx), found["attention"].get("head_dim"))
    return {name: Said(settings) for name, settings in found.items()}


def part(config: Any, ctx: LayerContext) -> dict[str, Any]:
    """Return the settings of one part with everything said."""
    found = {key: value for key, value in config.to_dict().items() if key not in TRAINING_ONLY}
    for key in ("bias", "qkv_bias", "out_bias"):
        if key in found:
            found[key] = ctx.use_bias(found[key])
    if "n_kv_heads" in found:
        found["n_kv_heads"] = config.kv_heads()
    if "head_dim" in found and hasattr(config, "width"):
        found["head_dim"] = config.width(ctx)
    if found.get("head_dim", 0) is None:  # the part itself knows it
        del found["head_dim"]
    if "scale" in found and "head_dim" in found:
        found["scale"] = float(found["scale"] or found["head_dim"] ** -0.5)
    if "d_ff" in found and hasattr(config, "width"):
        found["d_ff"] = config.width(ctx)
    if getattr(config, "qk_norm", None) is not None:
        found["qk_norm"] = part(config.qk_norm, ctx)
    if "expert" in found:
        found = _experts(config, found, ctx)
    return found


def _experts(config: Any, found: dict[str, Any], ctx: LayerContext) -> dict[str, Any]:
    """Return a mixture with everything said: what an expert is, how weights are shared, whether choices are biased."""
    said = {
        "expert": part(config.expert_config(), ctx),
        "normalise": config.normalises,
        "balance": config.balance == "bias",
    }
    return {key: value for key, value in found.items() if key != "d_ff"} | said


def _position(found: dict[str, Any], head_dim: int | None) -> dict[str, Any]:
    """Return positions with the width that they turn, and a theta stretched for good where scaling is but that."""
    if found["type"] != "rotary":
        return found
    fraction = found.pop("fraction")
    if head_dim is None:
        return found | {"rotated": fraction}
    rotated = round(fraction * head_dim)
    scaling = found.get("scaling")
    if scaling is not None and scaling["type"] == "ntk":
        found |= {"theta": stretched_theta(rotated, found["theta"], scaling["factor"]), "scaling": None}
    if scaling is not None and scaling["type"] == "yarn" and scaling["attention_factor"] is None:
        found["scaling"] = {key: value for key, value in scaling.items() if key != "attention_factor"}
    return found | {"rotated": rotated}


def _flat(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, Any] = {}
    for key, inside in value.items():
        found |= _flat(f"{path}.{key}", inside)
    return found


def differences(wanted: Mapping[str, Any], had: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs between two plain settings, by path; layers that differ alike are told once."""
    found: dict[str, tuple[Any, Any]] = {}
    for path in dict.fromkeys([*wanted, *had]):
        pair = wanted.get(path), had.get(path)
        if pair[0] != pair[1]:
            where = path.split(".", 2)
            name = where[2] if where[0] == "layers" else path
            found.setdefault(name, pair)
    return _by_type(found)


def _by_type(found: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Leave out the settings of a part that is another one anyway."""
    others = {path.removesuffix("type") for path in found if path.endswith(".type")}
    return {
        path: pair
        for path, pair in found.items()
        if not any(path.startswith(other) and path != f"{other}type" for other in others)
    }


def stack(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of layers, each with `attention` and `feed_forward`, perhaps `position`, as one model's.

    Layers that are all alike are written directly, others as `blocks` with the shortest `pattern` that repeats.
    """
    kinds = [one for place, one in enumerate(layers) if one not in layers[:place]]
    if len(kinds) == 1:
        return dict(kinds[0])
    names = _names(kinds)
    order = [names[kinds.index(one)] for one in layers]
    period = next(n for n in range(1, len(order) + 1) if all(order[i] == order[i % n] for i in range(len(order))))
    return {"blocks": dict(zip(names, map(dict, kinds), strict=True)), "pattern": order[:period]}


def _names(kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a name for each kind of layer: its attention, its feed-forward where that differs, a number else."""
    for choice in (("attention",), ("feed_forward",), ("attention", "feed_forward")):
        names = ["_".join(str(kind[name]["type"]) for name in choice) for kind in kinds]
        if len(set(names)) == len(names):
            return names
    return [f"{kind['attention']['type']}_{number}" for number, kind in enumerate(kinds, start=1)]
