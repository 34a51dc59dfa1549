"""`gptwright report RUN`: write the run's report.html again, for example while it still trains."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from gptwright.train.report import write_report


def command(
    run: Annotated[Path, typer.Argument(help="The run folder.", metavar="RUN")],
    title: Annotated[str | None, typer.Option(help="The heading, instead of the folder's name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Rebuild report.html of a run from what its folder holds."""
    path = write_report(run, title=title)
    words = json.dumps({"run": str(run), "report": str(path)}) if as_json else str(path)
    sys.stdout.write(words + "\n")
