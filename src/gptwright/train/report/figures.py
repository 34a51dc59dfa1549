"""The key figures, the one-line description, and what to type next: the words of a report."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptwright.train.report.read import Run
from gptwright.train.report.state import last_step, state
from gptwright.train.report.words import clock, compact, fixed, number, short


@dataclass(frozen=True)
class Figure:
    """One number worth a card of its own."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Command:
    """A line to type, and what it does."""

    line: str
    does: str


def key_figures(run: Run) -> list[Figure]:
    """Return the cards at the top; a figure that the run does not have is left out."""
    loss, bits = _of(run, "val_loss"), _of(run, "val_bits_per_byte")
    tokens, seconds, speed = (_of(run, name) for name in ("tokens", "train_seconds", "tokens_per_second"))
    params = number(run.summary.get("params"))
    train_loss = math.nan if math.isfinite(loss) else _last(run.train, "loss")
    found = [
        (loss, Figure("Validation loss", fixed(loss), _best(run, loss) or "nats per token")),
        (bits, Figure("Bits per byte", fixed(bits), "on the validation split")),
        (
            train_loss,
            Figure("Training loss", fixed(train_loss), "nats per token"),
        ),
        (tokens, Figure("Tokens", compact(tokens), _steps(run))),
        (seconds, Figure("Training time", clock(seconds), "evaluation excluded")),
        (speed, Figure("Tokens per second", compact(speed), _peak(run))),
        (params, Figure("Parameters", compact(params), _active(run))),
    ]
    return [figure for value, figure in found if math.isfinite(value)]


def headline(run: Run) -> str:
    """Return the parts of the run in one line, as far as its settings name them."""
    model, data = _part(run.config, "model"), _part(run.config, "data")
    layers, width, context = (model.get(name) for name in ("n_layers", "d_model", "max_seq_len"))
    words = [
        f"{layers} layers of {width}" if layers and width else "",
        f"{_names(model, 'attention')} attention" if _names(model, "attention") else "",
        _names(model, "feed_forward"),
        _names(model, "norm"),
        f"{_name(model, 'position')} positions" if _name(model, "position") else "",
        f"context {context}" if context else "",
        _name(run.config, "optim"),
        f"on {Path(str(data['source'])).name}" if data.get("source") else "",
    ]
    return " · ".join(word for word in words if word)


def brief(config: Mapping[str, Any]) -> str:
    """Return the parts of a model in a few words: `6x384 local + softmax, glu, rms_norm, rotary`."""
    model = _part(config, "model")
    layers, width = model.get("n_layers"), model.get("d_model")
    size = f"{layers}x{width} " if layers and width else ""
    parts = (_names(model, "attention"), _names(model, "feed_forward"), _names(model, "norm"), _name(model, "position"))
    return f"{size}{', '.join(part for part in parts if part)}".strip()


def commands(run: Run) -> list[Command]:
    """Return the lines to type next, ready to be pasted into the shell that started the run."""
    folder = _from_here(run.folder)
    name = shlex.quote(folder)
    other = shlex.quote(f"{folder}-2")
    settings = shlex.quote(f"{folder}/config.yaml")
    lines = [
        Command(f'gptwright generate {name} --prompt "Once upon a time"', "let it write"),
        Command(f"gptwright eval {name}", "measure it again on the whole validation split"),
    ]
    swap = _swap(run.config)
    if swap:
        line = f"gptwright train {settings} {shlex.quote(swap)} --run {other}"
        lines.append(Command(line, "swap one part, train again"))
    if state(run).name == "interrupted":
        lines.insert(0, Command(f"gptwright train --resume --run {name}", "go on"))
    if (run.folder / "tensorboard").is_dir():
        logs = shlex.quote(f"{folder}/tensorboard")
        lines.append(Command(f"tensorboard --logdir {logs}", "browse the curves"))
    return lines


def notes(run: Run) -> list[str]:
    """Return what a reader should know about gaps in the data."""
    found = []
    if run.torn_lines:
        lines = "line" if run.torn_lines == 1 else "lines"
        found.append(f"{run.torn_lines} unreadable {lines} of metrics.jsonl left out, cut off while being written")
    why = str(run.summary.get("stopped_because") or "")
    if why and state(run).name == "stopped":
        found.append(f"the run stopped before its last step: {why}")
    skipped = _last(run.train, "skipped_steps")
    if skipped > 0:
        steps = "step was" if skipped == 1 else "steps were"
        found.append(f"{int(skipped):,} {steps} skipped because the loss or the gradient was not finite")
    lost = sum(int(np.sum(~np.isfinite(part[name]))) for part, name in _losses(run))
    if lost:
        values = "value was" if lost == 1 else "values were"
        found.append(f"{lost} loss {values} not finite and left a gap in the curves")
    return found


def _losses(run: Run) -> list[tuple[dict[str, np.ndarray], str]]:
    return [(part, name) for part, name in ((run.train, "loss"), (run.val, "val_loss")) if name in part]


def _steps(run: Run) -> str:
    epoch = _last(run.train, "epoch")
    passes = f", {epoch:.2f} epochs" if math.isfinite(epoch) else ""
    return f"{last_step(run):,} steps{passes}"


def _of(run: Run, name: str) -> float:
    """Return a figure from the summary, else from the last line that has it."""
    value = number(run.summary.get(name))
    if math.isfinite(value):
        return value
    if name == "tokens_per_second" and name in run.train:
        finite = run.train[name][np.isfinite(run.train[name])]
        return float(np.median(finite)) if finite.size else math.nan
    found = (_last(part, name) for part in (run.val, run.train))
    return max((value for value in found if math.isfinite(value)), default=math.nan)


def _best(run: Run, final: float) -> str:
    losses, steps = run.val.get("val_loss", np.empty(0)), run.val.get("step", np.empty(0))
    if not np.isfinite(losses).any():
        return ""
    best = int(np.nanargmin(losses))
    return f"best {losses[best]:.4f} at step {int(steps[best]):,}" if losses[best] < final - 5e-5 else ""


def _peak(run: Run) -> str:
    peak = run.train.get("peak_fraction", np.empty(0))
    peak = peak[np.isfinite(peak)]
    return f"{100 * float(np.median(peak)):.0f}% of matmul peak" if peak.size else ""


def _active(run: Run) -> str:
    params, active = (number(run.summary.get(name)) for name in ("params", "active_params"))
    return f"{compact(active)} active" if math.isfinite(active) and active != params else ""


def _swap(config: Mapping[str, Any]) -> str:
    """Return a setting that exchanges the attention, or the norm where that is all we can tell."""
    model = _part(config, "model")
    attention = _part(model, "attention")
    heads, context = attention.get("n_heads"), number(model.get("max_seq_len"))
    if heads and attention.get("type") == "softmax" and context >= 8:
        return f"model.attention={{type: local, n_heads: {heads}, window: {int(context) // 4}}}"
    if heads and attention.get("type") not in (None, "softmax"):
        return f"model.attention={{type: softmax, n_heads: {heads}}}"
    norm = _name(model, "norm")
    return f"model.norm={'layer_norm' if norm == 'rms_norm' else 'rms_norm'}" if norm else ""


def _from_here(folder: Path) -> str:
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix() or "."
    except ValueError:
        return folder.as_posix()


def _last(part: Mapping[str, np.ndarray], name: str) -> float:
    return float(part[name][-1]) if name in part and part[name].size else math.nan


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _name(config: Mapping[str, Any], part: str) -> str:
    found = config.get(part)
    return str(found.get("type") or "") if isinstance(found, Mapping) else str(found or "")


def _names(model: Mapping[str, Any], part: str) -> str:
    """Return what ``part`` is, or are: a hybrid stack names its parts block by block."""
    named = [_name(block, part) for block in _part(model, "blocks").values() if isinstance(block, Mapping)]
    return " + ".join(dict.fromkeys(name for name in named if name)) or _name(model, part)


def describe(label: str, x: np.ndarray, y: np.ndarray) -> str:
    """Return a curve in one sentence, for who cannot see it."""
    finite = np.flatnonzero(np.isfinite(y))
    if not finite.size:
        return f"{label}: no finite values."
    first, last = finite[0], finite[-1]
    low, high = short(float(np.min(y[finite]))), short(float(np.max(y[finite])))
    return (
        f"{label} goes from {short(float(y[first]))} at step {int(x[first]):,} to {short(float(y[last]))} "
        f"at step {int(x[last]):,}; lowest {low}, highest {high}."
    )
