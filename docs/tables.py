"""Tables of settings, from their JSON Schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

KINDS = {"attention", "feed_forward", "norm", "position", "tokenizer", "optim", "schedule"}
"""Slots, each with a page of its own."""
TYPES = {"integer": "whole number", "boolean": "true, false", "string": "text", "object": "mapping"}
"""JSON Schema's words in ours, where they differ."""


def table(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rows of a settings table from a schema of one mapping."""
    rows = {key: field for key, field in body["properties"].items() if key != "type"}
    if not rows:
        yield "No settings."
        return
    yield "| setting | values | default | meaning |\n|---|---|---|---|"
    for key, field in rows.items():
        default = "required" if key in body.get("required", ()) else shown(field.get("default"))
        meaning = " ".join(field.get("description", "").split())
        yield f"| `{key}` | {cell(values(field))} | {cell(default)} | {cell(meaning)} |"


def values(field: Mapping[str, Any]) -> str:
    """Return in a few words what a field may hold."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}]({name}.md)" if name in KINDS else "settings, see below"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        kinds = [values(each) for each in field["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    return words(field) + bounds(field)


def words(field: Mapping[str, Any]) -> str:
    """Return the name of a field's type."""
    kind = field.get("type", "anything")
    if kind == "array":
        return "list of " + (values(field["items"]) if "items" in field else "values")
    return TYPES.get(kind, kind)


def bounds(field: Mapping[str, Any]) -> str:
    """Return the bounds of a number, where it has any."""
    names = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    found = [f"{sign} {field[key]}" for key, sign in names.items() if key in field]
    return f" {', '.join(found)}" if found else ""


def shown(default: Any) -> str:
    """Return a default as YAML would write it; a mapping by its type alone."""
    if default is None:
        return ""
    if isinstance(default, dict):
        return f"`{default['type']}`" if "type" in default else ("its own defaults" if default else "")
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default, ensure_ascii=False)}`"


def cell(text: str) -> str:
    """Return text that cannot break out of a table's cell."""
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text.replace("|", "\\|")
