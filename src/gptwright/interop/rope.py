"""Rotary positions in the words of Hugging Face's `rope_parameters`, both ways."""

import math
from collections.abc import Mapping
from typing import Any

from gptwright.interop.words import Words
from gptwright.ops.rotary import stretched_theta

Parameters = Mapping[str, Any]


def parameters(words: Words, *, theta: str = "rope_theta", share: str = "partial_rotary_factor") -> dict[str, Any]:
    """Return what a config.json says of rotary positions, wherever it says it: the newer form has it in one place."""
    found: dict[str, Any] = {"rope_theta": words[theta], "partial_rotary_factor": words[share]}
    for key in ("rope_scaling", "rope_parameters"):
        given = words[key]
        if isinstance(given, Mapping):
            found |= {name: value for name, value in given.items() if value is not None}
    return found


def position_of(
    found: Parameters, words: Words, *, head_dim: int, partial: bool = False, default_theta: float = 10000.0
) -> dict[str, Any]:
    """Return our settings of rotary positions; what they cannot say is noted in ``words``.

    ``partial`` says whether this family turns only a share of each head where it is asked to.
    """
    theta = found.get("rope_theta")
    position: dict[str, Any] = {"type": "rotary", "theta": float(default_theta if theta is None else theta)}
    share = found.get("partial_rotary_factor")
    if partial and share is not None and int(head_dim * share) != head_dim:
        position["fraction"] = int(head_dim * share) / head_dim
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind == "default":
        return position
    if kind not in _SCALINGS:
        words.cannot(f"rotary scaling of type {kind!r:.40}, whose angles follow the length read so far")
        return position
    return position | {"scaling": _SCALINGS[kind](found, words.count("max_position_embeddings"))}


def _linear(found: Parameters, length: int) -> dict[str, Any]:
    del length
    return {"type": "linear", "factor": float(found["factor"])}


def _llama3(found: Parameters, length: int) -> dict[str, Any]:
    return {
        "type": "llama3",
        "factor": float(found["factor"]),
        "original_max_seq_len": int(found.get("original_max_position_embeddings") or length),
        "low_freq_factor": float(found["low_freq_factor"]),
        "high_freq_factor": float(found["high_freq_factor"]),
    }


def _yarn(found: Parameters, length: int) -> dict[str, Any]:
    original = int(found.get("original_max_position_embeddings") or length)
    factor = float(found.get("factor") or length / original)
    settings: dict[str, Any] = {"type": "yarn", "factor": factor, "original_max_seq_len": original}
    for theirs, default in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        settings[theirs] = float(found.get(theirs) or default)
    settings["truncate"] = bool(found.get("truncate", True))
    magnitude = found.get("attention_factor")
    scale, scale_all = found.get("mscale"), found.get("mscale_all_dim")
    if magnitude is None and scale and scale_all:
        magnitude = _magnitude(factor, scale) / _magnitude(factor, scale_all)
    return settings if magnitude is None else settings | {"attention_factor": float(magnitude)}


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


_SCALINGS = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}


def parameters_of(position: Mapping[str, Any], head_dim: int, *, partial: bool = False) -> dict[str, Any]:
    """Return rotary positions of ours in the words of `rope_parameters`."""
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": position.get("theta", 10000.0)}
    rotated = round(position.get("fraction", 1.0) * head_dim)
    if partial:
        share = rotated / head_dim
        found["partial_rotary_factor"] = share if int(head_dim * share) == rotated else (rotated + 0.5) / head_dim
    scaling = position.get("scaling")
    if scaling is None:
        return found
    kind = scaling["type"]
    if kind == "ntk":  # nothing but a larger theta
        return found | {"rope_theta": stretched_theta(rotated, found["rope_theta"], scaling["factor"])}
    words: dict[str, str] = {"original_max_seq_len": "original_max_position_embeddings", "type": "rope_type"}
    for key, value in scaling.items():
        if value is not None:
            found[words.get(key) or key] = value
    return found
