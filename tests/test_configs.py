"""Every YAML that we ship is read, built and counted."""

from pathlib import Path

import pytest
import torch

from gptwright import GPT
from gptwright.cli.main import main
from gptwright.cli.settings import resolve
from gptwright.model import PRESETS
from gptwright.model.count import count

CONFIGS = Path(__file__).parents[1] / "configs"
READY = sorted(CONFIGS.glob("*.yaml"))
DEMO = Path(str(PRESETS)).parents[1] / "cli" / "demo.yaml"
EVERY = [*READY, DEMO, *sorted(PRESETS.glob("*.yaml"))]
VOCABULARY = 65
LARGE = {"llama-7b", "gpt2-1.5b", "gpt2-774m", "gpt2-355m"}
"""Presets whose training memory takes seconds to foresee."""


def by_name(files):
    return {"argvalues": files, "ids": [f"{file.parent.name}/{file.stem}" for file in files]}


@pytest.mark.parametrize("file", **by_name(EVERY))
def test_it_builds_and_its_count_is_that_of_what_is_built(file):
    settings = resolve(file).config.model
    settings = settings.model_copy(update={"vocab_size": settings.vocab_size or VOCABULARY})
    with torch.device("meta"):
        model = GPT(settings)
    found = count(settings)
    assert found.params == sum(each.numel() for each in model.parameters())
    assert 0 < found.active_params <= found.params
    assert found.flops_per_token > 0


@pytest.mark.parametrize("file", **by_name([file for file in EVERY if file.stem not in LARGE]))
def test_the_command_counts_it(file, capsys):
    assert main(["count", str(file), f"model.vocab_size={VOCABULARY}"]) == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.exhaustive
@pytest.mark.parametrize("file", **by_name([file for file in EVERY if file.stem in LARGE]))
def test_the_command_counts_what_is_large(file, capsys):
    assert main(["count", str(file), f"model.vocab_size={VOCABULARY}"]) == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize("file", **by_name([*READY, DEMO]))
def test_it_can_be_trained(file):
    """What training checks before the first step: data, a schedule that fits, rows of a step."""
    settings = resolve(file).config
    assert settings.require_data().source
    settings.build_schedule()
    assert settings.train.tokens_per_step % settings.model.max_seq_len == 0
    assert settings.train.sample_tokens > 0


@pytest.mark.parametrize("file", **by_name(READY))
def test_it_begins_with_what_it_is_and_how_to_run_it(file):
    lines = file.read_text().splitlines()
    head = "\n".join(lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))])
    assert "gptwright train " in head
    assert "About " in head or "Well under a minute" in head
    assert max(map(len, lines)) <= 120
