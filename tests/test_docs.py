"""The reference pages are written from the code, and the navigation names every page."""

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch

from gptwright.config.schema import json_schema
from gptwright.nn.slots import ATTENTION
from gptwright.train.config import RunConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "docs" / "write_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "docs"))


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
    assert "| `wiring` | `pre`, `post`, `sandwich`, `parallel`, `parallel_norms` | `pre` |" in page


def test_presets_are_counted(reference):
    assert "| [gpt2-124m](#gpt2-124m) | 124,439,808 | 85,056,000 |" in reference.presets_page()


def test_every_public_name_is_described(reference):
    page = reference.python_page()
    assert "generate(model, prompts, *, n=1" in page
    assert "\n## GPT\n" in page


def test_the_navigation_names_every_page(reference):
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8")))
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    generated = {f"reference/{slot.kind}.md" for slot in reference.SLOTS}
    assert named == written | generated | {f"reference/{name}.md" for name in ("settings", "presets", "cli", "python")}


def test_a_page_says_what_a_part_costs(reference, schema):
    page = reference.slot_page(ATTENTION, schema)
    assert "Cost at d_model 384, n_heads 6, window 256:" in page
    assert "| parameters | 589,824 | 589,824 |" in page


def test_every_picture_that_a_page_shows_is_drawn(reference, schema):
    drawn = {f"{name}.svg" for name, _ in reference.pictures()}
    shown = {name for slot in reference.SLOTS for name in re.findall(r"[\w-]+\.svg", reference.slot_page(slot, schema))}
    assert shown == drawn
    assert {f"attention-{name}.svg" for name in ATTENTION.names()} <= drawn


def test_a_picture_shows_the_window_and_nothing_across_documents(reference):
    pictures = sys.modules["pictures"]
    seen = pictures.influence({"type": "local", "n_heads": 4, "window": 6}, None, pictures.Sequence.plain(1, 24)) > 0
    distance = torch.arange(24)[:, None] - torch.arange(24)
    assert torch.equal(seen, (distance >= 0) & (distance < 6))
    packed = pictures.Sequence.packed(pictures.SEGMENTS)
    seen = pictures.influence({"type": "softmax", "n_heads": 4}, None, packed) > 0
    same = (pictures.SEGMENTS.mT == pictures.SEGMENTS) & (pictures.SEGMENTS > 0)
    assert torch.equal(seen, same.tril())


@pytest.mark.parametrize("kind", ["attention", "feed_forward", "norm", "position"])
def test_every_part_has_a_formula_and_a_paper(reference, schema, kind):
    slot = next(slot for slot in reference.SLOTS if slot.kind == kind)
    for name, part in slot.components().items():
        text = inspect.getdoc(part)
        assert re.search(r"\n    \S", text), f"{name} shows no formula"
        assert "https://arxiv.org/abs/" in text, f"{name} cites no paper"
