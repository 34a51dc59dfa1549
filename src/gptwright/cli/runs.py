"""`gptwright runs [DIR...]`: all runs as a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwright.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from gptwright.train.report.runs import RunLine

COLUMNS = (
    "run",
    "state",
    "model",
    "optimizer",
    "precision",
    "step",
    "params",
    "val loss",
    "best",
    "bits/byte",
    "tokens",
    "time",
)
WORDS = {"running": "training now", "empty": "no steps yet"}


def command(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="Where to look, at any depth. Default: runs.")
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="FIELD",
            help="name, state, step, params, val_loss, best_val_loss, bits_per_byte, tokens or seconds.",
        ),
    ] = "name",
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="The largest first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List every run with its state, its parts and what it came to."""
    from gptwright.train.report.runs import by, list_runs

    looked = folders or [Path("runs")]
    lines = by(list_runs(looked if folders or looked[0].is_dir() else []), sort, reverse=reverse)
    if as_json:
        print_json({"runs": [line.to_dict() for line in lines]})
        return
    if not lines:
        say(f"there are no runs below {', '.join(map(str, looked))}; gptwright train CONFIG makes one")
        return
    print_table(COLUMNS, [_cells(line) for line in lines], right=5)
    for line in lines:
        if line.note:
            say(f"{line.name}: {line.note}")


def _cells(line: "RunLine") -> list[str]:
    """Return a line as texts; what the folder does not tell is a dash."""
    from gptwright.train.report.words import clock, compact, fixed

    nan = float("nan")
    val, best, bits = (
        fixed(nan if each is None else each) for each in (line.val_loss, line.best_val_loss, line.bits_per_byte)
    )
    params, tokens = (compact(nan if each is None else each) for each in (line.params, line.tokens))
    of = f"{line.step:,}/{line.steps:,}" if line.steps else f"{line.step:,}"
    time = clock(nan if line.seconds is None else line.seconds)
    words = (line.parts, line.optimizer, line.precision)
    return [
        line.name,
        WORDS.get(line.state, line.state),
        *(word or "–" for word in words),
        of,
        params,
        val,
        best,
        bits,
        tokens,
        time,
    ]
