"""The reference pages are written from the code, and the navigation names every page."""

import importlib.util
import re
from pathlib import Path

import pytest

from gptwright.config.schema import json_schema
from gptwright.train.config import RunConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "docs" / "write_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def schema():
    return json_schema(RunConfig)


def test_every_slot_has_a_page_with_every_part_and_setting(reference, schema):
    kinds = {name.partition(".")[0] for name in schema["$defs"] if "." in name}
    assert {slot.kind for slot in reference.SLOTS} == kinds
    for slot in reference.SLOTS:
        page = reference.slot_page(slot, schema)
        for name in slot.names():
            assert f"\n## {name}\n" in page
            for setting in schema["$defs"][f"{slot.kind}.{name}"]["properties"]:
                assert setting == "type" or f"| `{setting}` |" in page


def test_the_settings_page_says_values_defaults_and_meaning(reference, schema):
    page = reference.settings_page(schema)
    assert "| `steps` | whole number > 0 | `1000` | Optimizer steps. |" in page
    assert "| `d_model` | whole number > 0 | required | Width of the residual stream. |" in page
    assert "| `norm` | [norm](norm.md) | `layer_norm` |" in page
    assert "| `wiring` | `pre`, `post`, `sandwich`, `parallel` | `pre` |" in page


def test_presets_are_counted(reference):
    assert "| [gpt2-124m](#gpt2-124m) | 124,439,808 | 85,056,000 |" in reference.presets_page()


def test_every_public_name_is_described(reference):
    page = reference.python_page()
    assert "generate(model, prompt, *, max_new_tokens=200" in page
    assert "\n## GPT\n" in page


def test_the_navigation_names_every_page(reference):
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8")))
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    generated = {f"reference/{slot.kind}.md" for slot in reference.SLOTS}
    assert named == written | generated | {f"reference/{name}.md" for name in ("settings", "presets", "cli", "python")}
