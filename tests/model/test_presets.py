"""The sizes that papers and releases state, which the presets must have exactly."""

import pytest

from gptwright.cli.settings import resolve
from gptwright.model import PRESETS

PUBLISHED = {
    # the weights at huggingface.co/openai-community/openai-gpt (the paper, Radford et al. 2018, gives no count)
    "gpt1": 116_534_784,
    # the weights of github.com/openai/gpt-2, as at huggingface.co/openai-community/{gpt2, -medium, -large, -xl}
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    # the weights at huggingface.co/meta-llama/Llama-2-7b-hf (Touvron et al. 2023)
    "llama-7b": 6_738_415_616,
    # stories110M of github.com/karpathy/llama2.c: 110M
    "llama-110m": 109_529_856,
}
COMPUTED = {
    # V D + T D + L (12 D^2 + 13 D) + 2 D with V 50257, T 1024, ours and nobody's
    "tiny": 6_960_768,
    "small": 30_339_456,
    "base": 124_439_808,
    "large": 354_823_168,
}


@pytest.mark.parametrize("name", sorted({**PUBLISHED, **COMPUTED}))
def test_the_count_is_the_published_one(name):
    assert resolve(name).config.model.num_params() == {**PUBLISHED, **COMPUTED}[name]


def test_every_preset_has_its_number():
    assert {file.stem for file in PRESETS.glob("*.yaml")} == {*PUBLISHED, *COMPUTED}


@pytest.mark.parametrize("name", sorted(COMPUTED))
def test_the_four_sizes_follow_the_formula(name):
    model = resolve(name).config.model
    d, layers = model.d_model, model.n_layers
    assert COMPUTED[name] == (50257 + 1024) * d + layers * (12 * d**2 + 13 * d) + 2 * d


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_preset_says_where_it_comes_from(file):
    first, second = file.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert second.startswith(("# ", "extends: "))
    assert max(map(len, file.read_text().splitlines())) <= 120
