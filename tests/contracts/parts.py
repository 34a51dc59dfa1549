"""What the contracts are checked on: every component of every slot, and models made of them.

Nothing here names a component of ours: what lies in a slot's folder is found, with its examples.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from gptwright.check.models import Settings
from gptwright.check.subject import SLOTS
from gptwright.model.block import WIRINGS

from . import strangers
from .refused import refused

HERE = strangers.__name__
STRANGERS = [
    {"type": f"{HERE}:Minimal"},
    {"type": f"{HERE}:Louder", "n_heads": 4, "n_kv_heads": 2},
    {"type": "my_file:MyAttention", "heads": 2},
]
EXTRAS: list[Settings] = [
    {},
    {"residual_scale": "depth", "logit_softcap": 3.0, "head_bias": True},
    {"layer_scale": 0.5, "bias": True, "tie_embeddings": False, "embedding_scale": "width"},
    {"value_residual": 0.5, "init": {"strategy": "xavier_normal", "std": 0.2}},
    {"embedding_norm": "rms_norm", "d_embedding": 16, "tie_embeddings": False},
]
"""Settings of a model that stand beside its parts; each of its extras is in one of them."""


def examples(kind: str, *, first_only: bool = False) -> list[Settings]:
    """Return the settings of every example of every component of a slot, or the first of each."""
    found = []
    for name, component in SLOTS[kind].components().items():
        used = component.EXAMPLES[:1] if first_only else component.EXAMPLES
        found += [{"type": name, **example} for example in used]
    return found


def every_component(*, first_only: bool = False) -> Iterator[tuple[str, Settings]]:
    """Yield ``(kind, settings)`` of every example of every slot, and of the strangers."""
    for kind in SLOTS:
        yield from ((kind, settings) for settings in examples(kind, first_only=first_only))
    yield from (("attention", settings) for settings in STRANGERS)


def label(settings: Any) -> str:
    """Return a short name for a test's id."""
    if not isinstance(settings, dict):
        return str(settings)
    inside = ",".join(f"{k}={label(v)}" for k, v in settings.items() if k != "type")
    name = settings.get("type", "").rpartition(":")[2]
    return f"{name}({inside})" if inside else name


def axes() -> dict[str, list[Any]]:
    """Return the choices that a whole model is made of: of attentions every example, of other parts the first."""
    found: dict[str, list[Any]] = {"attention": examples("attention") + STRANGERS}
    found |= {kind: examples(kind, first_only=True) for kind in ("feed_forward", "norm", "position")}
    return {**found, "wiring": list(WIRINGS), "extras": EXTRAS}


def model_settings(row: dict[str, Any]) -> Settings:
    """Return a row of choices as the settings of a model."""
    return {key: value for key, value in row.items() if key != "extras"} | row.get("extras", {})


def pairwise(choices: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return few rows in which every pair of choices that is not refused occurs (a greedy covering array)."""
    names = list(choices)
    fits = {
        (a, i, b, j): not refused({names[a]: choices[names[a]][i], names[b]: choices[names[b]][j]})
        for a, b in itertools.combinations(range(len(names)), 2)
        for i in range(len(choices[names[a]]))
        for j in range(len(choices[names[b]]))
    }
    missing = {pair for pair, fit in fits.items() if fit}
    rows = []
    while missing:
        row = _row_that_covers(missing, fits, [len(choices[name]) for name in names])
        missing -= set(_pairs(row))
        rows.append({name: choices[name][i] for name, i in zip(names, row, strict=True)})
    return rows


Pair = tuple[int, int, int, int]


def _row_that_covers(missing: set[Pair], fits: dict[Pair, bool], sizes: list[int]) -> list[int]:
    a, i, b, j = min(missing)
    row: dict[int, int] = {a: i, b: j}
    for axis in range(len(sizes)):
        if axis not in row:
            able = [k for k in range(sizes[axis]) if all(fits[_pair(axis, k, *x)] for x in row.items())]
            row[axis] = max(able, key=lambda k: sum(_pair(axis, k, *x) in missing for x in row.items()))
    return [row[axis] for axis in range(len(sizes))]


def _pairs(row: list[int]) -> Iterable[Pair]:
    return ((a, row[a], b, row[b]) for a, b in itertools.combinations(range(len(row)), 2))


def _pair(a: int, i: int, b: int, j: int) -> Pair:
    return (a, i, b, j) if a < b else (b, j, a, i)


def alone() -> list[Settings]:
    """Return the settings of each component, wiring and extra in plain surroundings."""
    found = [{kind: settings} for kind, settings in every_component()]
    return found + [{"wiring": wiring} for wiring in WIRINGS] + [dict(extra) for extra in EXTRAS]


def pairs() -> list[Settings]:
    """Return the settings of models in which all pairs of choices occur; the examples of a component take turns."""
    turns = {
        first["type"]: itertools.cycle([each for each in examples(kind) if each["type"] == first["type"]])
        for kind in ("feed_forward", "norm", "position")
        for first in examples(kind, first_only=True)
    }
    rows = pairwise(axes())
    for row in rows:
        row.update({kind: next(turns[row[kind]["type"]]) for kind in ("feed_forward", "norm", "position")})
    return [model_settings(row) for row in rows]


def combinations() -> list[Settings]:
    """Return model settings: each component in plain surroundings, then all pairs of choices."""
    return alone() + pairs()


def product() -> Iterator[tuple[Settings, Settings, list[Settings]]]:
    """Yield ``(attention, feed-forward, the rest)`` of the full product of all components.

    Of an attention every example, of other parts the first; extras take turns.
    """
    found = axes()
    turns = itertools.cycle(EXTRAS)
    for attention, feed_forward in itertools.product(found["attention"], found["feed_forward"]):
        rest = []
        for norm, position, wiring in itertools.product(found["norm"], found["position"], found["wiring"]):
            parts = {"attention": attention, "feed_forward": feed_forward, "position": position}
            if not refused(parts):
                extras = next(extra for extra in turns if not refused({**parts, "extras": extra}))
                rest.append({"norm": norm, "position": position, "wiring": wiring, **extras})
        yield attention, feed_forward, rest


def as_params(found: Iterable[Any]) -> list[Any]:
    """Return pytest parameters with readable ids."""
    return [pytest.param(each, id="-".join(label(part) for part in each.values()) or "plain") for each in found]
