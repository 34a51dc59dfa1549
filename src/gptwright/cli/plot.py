"""`gptwright plot RUN...`: several runs in one chart."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gptwright.cli.output import JsonOption, print_json, write

_COLUMNS = {"step": "step", "tokens": "tokens", "time": "train_seconds"}


class Across(StrEnum):
    """What the x axis shows."""

    STEP = "step"
    TOKENS = "tokens"
    TIME = "time"


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="A file that ends in .html, .svg or .png.")
    ] = Path("plots.html"),
    x: Annotated[Across, typer.Option("--x", help="What the x axis shows.")] = Across.STEP,
    log: Annotated[bool, typer.Option("--log", help="Logarithmic axes.")] = False,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="A column of metrics.jsonl instead of the two losses."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the losses of several runs into one chart, and print where it is."""
    from gptwright.train.report.overlay import overlay
    from gptwright.train.report.plot import write_plot

    path = write_plot(overlay(runs, metric), out, x_name=_COLUMNS[x], log=log)
    if as_json:
        print_json({"plot": str(path), "runs": [str(run) for run in runs]})
    else:
        write(f"{path}\n")
