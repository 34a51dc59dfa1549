"""`gptwright demo`: a small GPT learns from real text in about a minute, and talks."""

import shlex
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwright.cli.output import JsonOption, QuietOption, say
from gptwright.cli.settings import resolve
from gptwright.cli.train import finish, run_training

if TYPE_CHECKING:
    from gptwright.train.config import RunConfig

SETTINGS = Path(__file__).with_name("demo.yaml")
FOLDER = Path("runs/demo")


def command(
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", help="The run folder. Default: runs/demo, or a new name beside it."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of those of a minute.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a small GPT on the reference of the Python language in about a minute, and let it talk."""
    settings = resolve(SETTINGS, {} if steps is None else {"train.steps": steps}).config
    folder = run or fresh(FOLDER)
    if not quiet:
        for line in _greeting(settings, folder, taken=run is None and folder != FOLDER):
            say(line)
    result = run_training(settings, folder, quiet=quiet)
    finish(result, settings, as_json=as_json, quiet=quiet)
    if not quiet:
        for line in _experiment(result.run):
            say(line)


def _greeting(settings: "RunConfig", folder: Path, taken: bool) -> list[str]:
    assert settings.data is not None
    model, train = settings.model, settings.train
    return [
        f"A GPT of {model.n_layers} layers, {model.d_model} wide, with random weights, learns from "
        f"{settings.data.source} for {train.steps:,} steps.",
        f"It goes to {folder}{f', since {FOLDER} is in use' if taken else ''}. Ctrl-C saves and stops.",
        "",
    ]


def _experiment(run: str) -> list[str]:
    """Return how to go on: the same run with another part, then with one's own text."""
    config = shlex.quote(str(Path(run) / "config.yaml"))
    return [
        "",
        f"Change a part, and train again. {config} holds every setting: copy and edit it, or say it here.",
        f"  gptwright train {config} --run runs/local \\",
        "    model.attention.type=local model.attention.n_heads=6 model.attention.window=32",
        "Train on a text of your own.",
        f"  gptwright train {config} --run runs/mine data.source=my-text.txt model.vocab_size=null",
    ]


def fresh(folder: Path) -> Path:
    """Return ``folder``, or the first of folder-2, folder-3 ... that is not in use: no run is ever overwritten."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists() or (name.is_dir() and not any(name.iterdir())))
