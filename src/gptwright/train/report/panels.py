"""Which small charts a report has: one for each kind of figure that the run has logged."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gptwright.train.report.lines import Columns
from gptwright.train.report.read import Run

COLOURS = 6
"""Colours of the style sheet for curves without one of their own: `k0` to `k5`; further ones are dashed."""
MOST_PARTS = 12


@dataclass(frozen=True)
class Curve:
    """One column of the metrics in a chart."""

    column: str
    label: str
    colour: str
    """Its class in the style sheet."""


@dataclass(frozen=True)
class Kind:
    """A small chart: what it shows, and how."""

    name: str
    title: str
    hint: str
    curves: tuple[Curve, ...]
    part: str = "train"
    """`train` or `val`: the rows that it is drawn from."""
    smoothed: bool = True
    zero: bool = True
    """Whether the axis begins at zero."""
    unit: float = 1.0
    """What the numbers are divided by."""

    def columns(self, run: Run) -> Columns:
        """Return the rows that the curves come from."""
        return run.val if self.part == "val" else run.train


def kinds(run: Run) -> list[Kind]:
    """Return the charts that ``run`` has numbers for."""
    found = [*_single(), *_by_part(run)]
    return [kind for kind in found if any(_moves(kind, kind.columns(run), curve.column) for curve in kind.curves)]


def colour(number: int) -> str:
    """Return the classes of curve ``number`` of several."""
    return f"k{number % COLOURS} d{number // COLOURS % 4}"


def _single() -> Iterator[Kind]:
    yield Kind("lr", "Learning rate", "of the schedule", (Curve("lr", "learning rate", "lr"),), smoothed=False)
    norm = Curve("grad_norm", "gradient norm", "grad_norm")
    yield Kind("grad_norm", "Gradient norm", "before clipping", (norm,))
    speed = Curve("tokens_per_second", "tokens/s", "tokens_per_second")
    yield Kind("tokens_per_second", "Tokens per second", "while training", (speed,))
    noise = Curve("grad_noise_scale", "gradient noise scale", "k3")
    yield Kind("grad_noise_scale", "Gradient noise scale", "larger batches gain little beyond it", (noise,))
    load = (Curve("expert_load", "busiest layer", "k0"), Curve("expert_load_mean", "mean of layers", "k1"))
    yield Kind("expert_load", "Expert load", "of the busiest expert; 1 is even", load)
    memory = Curve("memory_bytes", "memory, GB", "k4")
    yield Kind("memory_bytes", "Memory", "GB in use", (memory,), smoothed=False, unit=1e9)
    skipped = Curve("skipped_steps", "skipped steps", "k1")
    yield Kind("skipped_steps", "Skipped steps", "gradients that were not finite", (skipped,), smoothed=False)


def _by_part(run: Run) -> Iterator[Kind]:
    """Yield the charts of figures that are split into parts: `grad_norm/layers.0`, `val_loss/books`."""
    norms = _parts(run.train, "grad_norm/")
    yield Kind("grad_norm/", "Gradient norm by part", "before clipping", norms)
    losses = _parts(run.val, "val_loss/")
    yield Kind("val_loss/", "Validation loss by part", "nats per token", losses, "val", smoothed=False, zero=False)


def _parts(columns: Columns, prefix: str) -> tuple[Curve, ...]:
    names = [name for name in columns if name.startswith(prefix)][:MOST_PARTS]
    return tuple(Curve(name, name.removeprefix(prefix), colour(n)) for n, name in enumerate(names))


def _moves(kind: Kind, columns: Columns, name: str) -> bool:
    """Whether there is something to see: no chart of steps that were never skipped."""
    values = columns.get(name, np.empty(0))
    return bool(np.isfinite(values).any()) and (kind.name != "skipped_steps" or bool(np.nanmax(values) > 0))
