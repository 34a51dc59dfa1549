"""Equal settings mean equal roundings, however busy the machine is when a run begins."""

import json

import pytest
import torch

from gptwright.ops.precision import Machine
from gptwright.train.measured import choose_once

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fastest(monkeypatch):
    """Let a way be the fastest, as a measurement on a busy machine might find."""
    return lambda way: monkeypatch.setattr(Machine, "best_fp32", lambda self: way)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_what_was_decided_stays_decided(cache, fastest, name):
    fastest("fp32")
    first = choose_once(name, CPU)
    fastest("fp32_medium")
    assert choose_once(name, CPU) == first
    assert first.float32_matmul == "highest"
    (cache / "precision.json").unlink()
    assert choose_once(name, CPU).float32_matmul == "medium"


def test_each_precision_has_a_decision_of_its_own(cache, fastest):
    fastest("fp32")
    choose_once("fp32", CPU)
    fastest("fp32_medium")
    assert choose_once("bf16", CPU).float32_matmul == "medium"
    assert len(json.loads((cache / "precision.json").read_text())) == 2


@pytest.mark.parametrize("written", ["", "[]", "{", None])
def test_a_file_that_says_nothing_is_written_anew(cache, fastest, written):
    fastest("fp32")
    choose_once("fp32", CPU)
    file = cache / "precision.json"
    if written is None:
        nonsense = {"name": "fp7", "float32_matmul": "none"}
        written = json.dumps(dict.fromkeys(json.loads(file.read_text()), nonsense))
    file.write_text(written)
    fastest("fp32_medium")
    assert choose_once("fp32", CPU).float32_matmul == "medium"
    fastest("fp32")
    assert choose_once("fp32", CPU).float32_matmul == "medium"


def test_a_cache_that_cannot_be_written_does_not_matter(cache, fastest):
    cache.write_text("not a folder")
    fastest("fp32")
    assert choose_once("fp32", CPU).float32_matmul == "highest"
