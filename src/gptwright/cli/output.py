"""What every verb prints with: results go to stdout, words about them to stderr."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
PrecisionOption = Annotated[
    str | None, typer.Option(metavar="fp32|bf16", help="Compute in this precision. Default: that of the weights.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-code", help="Import code that the run's own settings name (pkg.module:Class).")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that win over the file's.")
]

_TABLE_WIDTH = 160
_STAGES = {
    "waiting": "waiting for another process",
    "read": "reading",
    "tokenizer": "learning the tokenizer",
    "tokenize": "tokenizing",
}


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; a number that JSON cannot hold becomes null."""
    write(json.dumps(_plain(data)) + "\n")


def write(text: str) -> None:
    """Write ``text`` to stdout at once; what its encoding cannot hold becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
    sys.stdout.flush()


def say_if_compiling() -> None:
    """Say why the first text on a machine takes some seconds to begin."""
    from gptwright.ops.native.build import compiled

    if not compiled():
        say("compiling kernels for this machine: some seconds, once")


def say(text: str = "") -> None:
    """Write a line to stderr, if anybody still reads it."""
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - stdout is for the result alone
    except (OSError, ValueError):
        return


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: int = 1) -> None:
    """Print a table on stdout; columns from ``right`` on are numbers, set to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place >= right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, _TABLE_WIDTH)  # a narrow terminal may break lines, but loses no digit
    console.print(table)


def print_facts(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values on stdout, one pair a line."""
    width = max(len(name) for name, _ in rows) + 2
    write("".join(f"{name:<{width}}{value}\n" for name, value in rows))


def size(count: float) -> str:
    """Return a number of bytes in the unit that suits it: `498 MB`."""
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
    place = next((n for n in range(len(units)) if count < 999.5 * 1000**n), len(units) - 1)
    return f"{count / 1000**place:.3g} {units[place]}"


@contextmanager
def data_progress(*, quiet: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield what `prepare` tells its progress to: a bar where stderr is a terminal, a line a stage elsewhere."""
    console = Console(stderr=True, markup=False, highlight=False)
    if quiet or not console.is_terminal:
        yield _line_a_stage(quiet)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        yield _bar_a_stage(bars)
        _fill(bars)


def _line_a_stage(quiet: bool) -> Callable[[str, int, int | None], None]:
    told: set[str] = set()

    def tell(stage: str, done: int, total: int | None) -> None:
        del done, total
        if not quiet and stage not in told:
            told.add(stage)
            say(_STAGES.get(stage, stage))

    return tell


def _bar_a_stage(bars: Progress) -> Callable[[str, int, int | None], None]:
    tasks: dict[str, TaskID] = {}

    def tell(stage: str, done: int, total: int | None) -> None:
        if stage not in tasks:
            _fill(bars)
            tasks[stage] = bars.add_task(_STAGES.get(stage, stage), total=total)
        bars.update(tasks[stage], completed=done, total=total)

    return tell


def _fill(bars: Progress) -> None:
    """Show every stage so far as done: a later one has begun, or all is well."""
    for task in bars.tasks:
        bars.update(task.id, total=max(1, task.completed), completed=max(1, task.completed))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
