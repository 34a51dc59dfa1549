"""What the contracts are checked on: every component of every slot, and models made of them.

Nothing here names a component of ours: what lies in a slot's folder is found, with its examples.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
import torch

import gptwright as gw
from gptwright.model.block import WIRINGS
from gptwright.nn.slots import ATTENTION, FEED_FORWARD, NORM, POSITION

from . import strangers

SLOTS = {slot.kind: slot for slot in (ATTENTION, FEED_FORWARD, NORM, POSITION)}
HERE = strangers.__name__
STRANGERS = [
    {"type": f"{HERE}:Minimal"},
    {"type": f"{HERE}:Louder", "n_heads": 4, "n_kv_heads": 2},
    {"type": "my_file:MyAttention", "heads": 2},
]
BASE: dict[str, Any] = {
    "vocab_size": 31,
    "d_model": 32,
    "n_layers": 2,
    "max_seq_len": 160,
    "attention": {"type": "softmax", "n_heads": 4},
    "init": {"std": 0.2},  # larger than usual: what attention adds must show
}

Settings = dict[str, Any]


def examples(kind: str, *, first_only: bool = False) -> list[Settings]:
    """Return the settings of every example of every component of a slot, or the first of each."""
    found = []
    for name, component in SLOTS[kind].components().items():
        used = component.EXAMPLES[:1] if first_only else component.EXAMPLES
        found += [{"type": name, **example} for example in used]
    return found


def every_component() -> Iterator[tuple[str, Settings]]:
    """Yield ``(kind, settings)`` of every example of every slot, and of the strangers."""
    for kind in SLOTS:
        yield from ((kind, settings) for settings in examples(kind))
    yield from (("attention", settings) for settings in STRANGERS)


def label(settings: Any) -> str:
    """Return a short name for a test's id."""
    if not isinstance(settings, dict):
        return str(settings)
    inside = ",".join(f"{k}={label(v)}" for k, v in settings.items() if k != "type")
    name = settings.get("type", "").rpartition(":")[2]
    return f"{name}({inside})" if inside else name


def axes() -> dict[str, list[Any]]:
    """Return the choices that a whole model is made of."""
    return {
        "attention": examples("attention") + STRANGERS,
        "feed_forward": examples("feed_forward"),
        "norm": examples("norm"),
        "position": examples("position"),
        "wiring": list(WIRINGS),
    }


def pairwise(choices: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return few combinations in which every pair of choices of two axes occurs (a greedy covering array)."""
    names = list(choices)
    missing = {
        (a, i, b, j)
        for a, b in itertools.combinations(range(len(names)), 2)
        for i in range(len(choices[names[a]]))
        for j in range(len(choices[names[b]]))
    }
    rows = []
    while missing:
        row = _row_that_covers(missing, [len(choices[name]) for name in names])
        missing -= set(_pairs(row))
        rows.append({name: choices[name][i] for name, i in zip(names, row, strict=True)})
    return rows


def _row_that_covers(missing: set[tuple[int, int, int, int]], sizes: list[int]) -> list[int]:
    a, i, b, j = min(missing)
    row: dict[int, int] = {a: i, b: j}
    for axis in range(len(sizes)):
        if axis not in row:
            row[axis] = max(range(sizes[axis]), key=lambda k: sum(_pair(axis, k, *x) in missing for x in row.items()))
    return [row[axis] for axis in range(len(sizes))]


def _pairs(row: list[int]) -> Iterable[tuple[int, int, int, int]]:
    return ((a, row[a], b, row[b]) for a, b in itertools.combinations(range(len(row)), 2))


def _pair(a: int, i: int, b: int, j: int) -> tuple[int, int, int, int]:
    return (a, i, b, j) if a < b else (b, j, a, i)


def combinations() -> list[Settings]:
    """Return model settings: each component in plain surroundings, then all pairs of choices."""
    alone = [{kind: settings} for kind, settings in every_component()]
    alone += [{"wiring": wiring} for wiring in WIRINGS]
    return alone + pairwise(axes())


def product() -> Iterator[tuple[Settings, Settings, list[Settings]]]:
    """Yield the full product of all components (every example of an attention), by attention and feed-forward."""
    found = axes()
    rest = [
        dict(zip(("norm", "position", "wiring"), row, strict=True))
        for row in itertools.product(
            examples("norm", first_only=True), examples("position", first_only=True), found["wiring"]
        )
    ]
    for attention, feed_forward in itertools.product(found["attention"], examples("feed_forward", first_only=True)):
        yield attention, feed_forward, rest


def as_params(found: Iterable[Any]) -> list[Any]:
    """Return pytest parameters with readable ids."""
    return [pytest.param(each, id="-".join(label(part) for part in each.values())) for each in found]


def build(settings: Settings, *, seed: int = 0, **more: Any) -> gw.GPT:
    """Return a small model in eval mode; anything that ``settings`` leave out is plain."""
    return fresh(gw.ModelConfig.from_dict(json.loads(json.dumps({**BASE, **settings, **more}))), seed)


def fresh(config: gw.ModelConfig, seed: int) -> gw.GPT:
    """Return a model whose vectors do not begin at zero and one: there, mistakes hide."""
    torch.manual_seed(seed)
    model = gw.GPT(config)
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim < 2:
                param += 0.1 * torch.randn_like(param)
    return model.eval()


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return random ids."""
    return torch.randint(0, BASE["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))
