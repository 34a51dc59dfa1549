"""Which of llama.cpp's rules splits text as a ``tokenizer.json`` says, before pieces are merged."""

from collections.abc import Mapping
from typing import Any

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPELT = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_AFTER = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
REGEXES = {
    **{f"{ending}{_WORDS}" + r"|\p{N}{1,3}" + _AFTER: ("llama-bpe", True) for ending in (_ENDINGS, _SPELT)},
    **{f"{ending}{_WORDS}" + r"|\p{N}" + _AFTER: ("qwen2", False) for ending in (_ENDINGS, _SPELT)},
}
"""Rules of published models, with llama.cpp's name and whether it takes a piece that is a token whole, unmerged. Only
those whose ids were seen to be equal: the one that it calls gpt-4o parts combining marks otherwise."""


def splitting(table: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name for the rule of a byte-level ``tokenizer.json``, or None if it has none."""
    parts = _parts(table.get("pre_tokenizer"))
    whole = bool(table["model"].get("ignore_merges"))
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    if (table.get("normalizer") or {"type": "NFC"}).get("type") != "NFC":
        return None
    before, byte_level = parts[:-1], parts[-1]
    if byte_level.get("use_regex", True):
        digits = [{"type": "Digits", "individual_digits": True}]
        return None if whole else "gpt-2" if not before else "smollm" if before == digits else None
    if len(before) != 1 or before[0].get("type") != "Split" or before[0].get("behavior") != "Isolated":
        return None
    name, takes_whole = REGEXES.get(before[0].get("pattern", {}).get("Regex", ""), (None, whole))
    return name if takes_whole == whole and not before[0].get("invert") else None


def adds_space(table: Mapping[str, Any]) -> bool:
    """Say whether a sentencepiece-like ``tokenizer.json`` puts a space before text."""
    normalizers = _parts(table.get("normalizer"), "normalizers")
    if any(one.get("type") == "Prepend" for one in normalizers):
        return True
    schemes = [
        one.get("prepend_scheme") for one in _parts(table.get("pre_tokenizer")) if one.get("type") == "Metaspace"
    ]
    return any(scheme != "never" for scheme in schemes)


def _parts(found: Mapping[str, Any] | None, key: str = "pretokenizers") -> list[dict[str, Any]]:
    """Return the steps of a pre-tokenizer or normalizer, one after the other."""
    if not found:
        return []
    return [dict(one) for one in found[key]] if found.get("type") == "Sequence" else [dict(found)]
