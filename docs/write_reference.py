"""Write docs/reference/: a page for the settings, for each slot, the presets, the command line and the Python names.

Everything comes from the code itself: docstrings, defaults, the menus of the slots. Called by `make docs`.
"""

import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slot_pages import SLOTS, pictures, slot_page
from tables import table

import gptwright
from gptwright.cli.main import VERBS
from gptwright.config.schema import json_schema
from gptwright.model import PRESETS
from gptwright.model.config import ModelConfig
from gptwright.train.config import RunConfig
from gptwright.train.settings import read_settings

FOLDER = Path(__file__).parent / "reference"
COUNTS = "| preset | parameters | without embeddings | active | training FLOPs a token |"


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(exist_ok=True)
    schema = json_schema(RunConfig)
    pages = {slot.kind: slot_page(slot, schema) for slot in SLOTS}
    pages |= {"settings": settings_page(schema), "presets": presets_page(), "cli": cli_page(), "python": python_page()}
    for name, text in pages.items():
        (FOLDER / f"{name}.md").write_text(text, "utf-8")
    for name, picture in pictures():
        (FOLDER / f"{name}.svg").write_text(picture, "utf-8")


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
