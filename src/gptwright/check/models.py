"""Small models to hold laws against: a component in plain surroundings.

Shapes: B batch, T tokens.
"""

import json
from collections.abc import Iterator
from typing import Any

import torch

from gptwright.model.config import ModelConfig
from gptwright.model.gpt import GPT
from gptwright.nn.base import LayerContext, Module

Settings = dict[str, Any]

BASE: Settings = {
    "vocab_size": 31,
    "d_model": 32,
    "n_layers": 2,
    "max_seq_len": 160,
    "attention": {"type": "softmax", "n_heads": 4},
    "init": {"std": 0.2},  # larger than usual: what attention adds must show
}
"""What a model is where nothing else is said."""


def build(settings: Settings, *, seed: int = 0, **more: Any) -> GPT:
    """Return a small model in eval mode; anything that ``settings`` leave out is plain."""
    return fresh(ModelConfig.from_dict(json.loads(json.dumps({**BASE, **settings, **more}))), seed)


def fresh(config: ModelConfig, seed: int = 0) -> GPT:
    """Return a model whose vectors do not begin at zero and one: there, mistakes hide."""
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim < 2:
                param += 0.1 * torch.randn_like(param)
    return model.eval()


def again(model: GPT, **changes: Any) -> GPT:
    """Return a new model of the same settings, but for ``changes``."""
    return fresh(model.config.model_copy(update=changes))


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return random ids."""
    return torch.randint(0, BASE["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def components(model: GPT) -> Iterator[tuple[str, Module, LayerContext]]:
    """Yield each component of a model with its name and surroundings; those inside others are theirs to count."""
    yield "position", model.position, model.config.context(0)
    for index, layer in enumerate(model.layers):
        for name, part in layer.named_children():
            if isinstance(part, Module):
                yield f"layers.{index}.{name}", part, model.config.context(index)
