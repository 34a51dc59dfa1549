"""Write docs/reference/: a page for the settings, for each slot, the presets, the command line and the Python names.

Everything comes from the code itself: docstrings, defaults, the menus of the slots. Called by `make docs`.
"""

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gptwright
from gptwright.cli.main import VERBS
from gptwright.config.schema import json_schema
from gptwright.config.slot import Slot
from gptwright.model import PRESETS
from gptwright.model.config import ModelConfig
from gptwright.nn.slots import ATTENTION, FEED_FORWARD, NORM, POSITION
from gptwright.tokenizer.load import SLOT as TOKENIZER
from gptwright.train.config import OPTIM, SCHEDULE, RunConfig
from gptwright.train.settings import read_settings

FOLDER = Path(__file__).parent / "reference"
SLOTS = {
    ATTENTION: ("model.attention", "How tokens see each other."),
    FEED_FORWARD: ("model.feed_forward", "What each token does by itself."),
    NORM: ("model.norm", "How vectors are normalised."),
    POSITION: ("model.position", "How tokens know where they stand."),
    TOKENIZER: ("data.tokenizer", "How text becomes tokens."),
    OPTIM: ("optim", "What moves the weights."),
    SCHEDULE: ("schedule", "How the learning rate moves."),
}
"""Each slot with its place in the settings and what it is for."""
TYPES = {"integer": "whole number", "boolean": "true, false", "string": "text", "object": "mapping"}
"""JSON Schema's words in ours, where they differ."""
COUNTS = "| preset | parameters | without embeddings | active | training FLOPs a token |"


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(exist_ok=True)
    schema = json_schema(RunConfig)
    pages = {slot.kind: slot_page(slot, schema) for slot in SLOTS}
    pages |= {"settings": settings_page(schema), "presets": presets_page(), "cli": cli_page(), "python": python_page()}
    for name, text in pages.items():
        (FOLDER / f"{name}.md").write_text(text, "utf-8")


def slot_page(slot: Slot, schema: Mapping[str, Any]) -> str:
    """Return the page of one slot: every component of its menu with settings and examples."""
    place, purpose = SLOTS[slot]
    title = slot.kind.replace("_", "-").capitalize()
    lines = [f"# {title}\n", f"{purpose} Written at `{place}` in the settings.\n"]
    for name, component in slot.components().items():
        lines += [f"## {name}\n", inspect.cleandoc(component.__doc__ or "") + "\n"]
        lines += [*table(schema["$defs"][f"{slot.kind}.{name}"]), "\n"]
        lines += ["```yaml\n" + "".join(example(slot, name, settings) for settings in component.EXAMPLES) + "```\n"]
    return "\n".join(lines)


def example(slot: Slot, name: str, settings: Mapping[str, Any]) -> str:
    """Return one line of YAML that chooses the component."""
    inside = ", ".join(f"{key}: {json.dumps(value)}" for key, value in {"type": name, **settings}.items())
    key = SLOTS[slot][0].rpartition(".")[2]
    return f"{key}: {name}\n" if not settings else f"{key}: {{{inside.replace(chr(34), '')}}}\n"


def settings_page(schema: Mapping[str, Any]) -> str:
    """Return the page of all settings outside the slots."""
    sections = {
        "The file": schema,
        "model": schema["$defs"]["ModelConfig"],
        "model.blocks": schema["$defs"]["BlockConfig"],
        "model.init": schema["$defs"]["InitConfig"],
        "train": schema["$defs"]["TrainConfig"],
        "data": schema["$defs"]["DataConfig"],
    }
    lines = ["# Settings\n", "One YAML file describes a run; each key can also be given as `key=value`.\n"]
    for title, body in sections.items():
        lines += [f"## {title}\n", body.get("description", "") + "\n", *table(body), "\n"]
    return "\n".join(lines)


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
        return f"[{name}]({name}.md)" if any(slot.kind == name for slot in SLOTS) else "settings, see below"
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


def presets_page() -> str:
    """Return every preset with its sizes, counted, and its YAML."""
    lines = ["# Presets\n", "Named without path and ending: `gptwright count gpt2-124m`, or `extends: tiny`.\n"]
    presets = sorted(PRESETS.glob("*.yaml"))
    models = {path.stem: read_settings(path).config.model for path in presets}
    lines += [COUNTS + "\n|---|---:|---:|---:|---:|"]
    lines += [preset_row(*item) for item in sorted(models.items(), key=lambda item: item[1].num_params())]
    for path in presets:
        lines += [f"\n## {path.stem}\n", f"```yaml\n{path.read_text('utf-8').strip()}\n```\n"]
    return "\n".join(lines)


def preset_row(name: str, model: ModelConfig) -> str:
    """Return the row of one preset, counted."""
    counted = [model.num_params(), model.num_params(non_embedding=True), model.active_params(), model.flops_per_token()]
    link = f"[{name}](#{name.replace('.', '')})"
    return "| " + " | ".join([link, *(f"{figure:,}" for figure in counted)]) + " |"


def cli_page() -> str:
    """Return the help of every verb."""
    lines = ["# Command line\n"]
    lines.append("Exit codes: 0 done, 2 a mistake in what was asked, 1 a fault of gptwright, 130 interrupted.\n")
    for verb in VERBS:
        lines += [f"## gptwright {verb}\n", f"```text\n{help_of(verb)}\n```\n"]
    return "\n".join(lines)


def help_of(verb: str) -> str:
    """Return what `gptwright VERB --help` prints, plain."""
    environment = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100", "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-m", "gptwright", verb, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def python_page() -> str:
    """Return the public names with their signatures and docstrings."""
    lines = ["# Python\n", "`import gptwright as gw` imports nothing heavy; each name is loaded when it is used.\n"]
    for name in gptwright.__all__:
        found = getattr(gptwright, name)
        if isinstance(found, str):
            continue
        lines += [f"## {name}\n", f"```python\n{signature(name, found)}\n```\n"]
        lines += [f"```text\n{inspect.getdoc(found) or ''}\n```\n"]
    return "\n".join(lines)


def signature(name: str, found: Any) -> str:
    """Return how a public name is called."""
    if inspect.isclass(found) and issubclass(found, Exception):
        return f"class {name}({found.__base__.__name__})"
    if hasattr(found, "model_fields"):
        return f"{name}.from_dict(data)"
    parameters = inspect.signature(found).parameters.values()
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return name + str(inspect.Signature(plain))


if __name__ == "__main__":
    main()
