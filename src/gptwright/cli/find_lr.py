"""`gptwright find-lr CONFIG key=value ...`: a learning-rate range test."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from gptwright.cli.output import JsonOption, OverridesArgument, QuietOption, print_json, say, write
from gptwright.cli.settings import resolve


def command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file or a preset.")],
    overrides: OverridesArgument = None,
    low: Annotated[float, typer.Option("--min", help="The first learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--max", help="The last one, if the loss does not diverge before.")] = 1.0,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps from one to the other.")] = 100,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the picture goes.")] = Path(
        "find-lr.html"
    ),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a fresh model for a moment at growing learning rates, and suggest one. No run folder is left.

    All groups of parameters move in proportion to optim.lr (Smith, 2015, arXiv:1506.01186).
    """
    settings = resolve(config, list(overrides or ())).config

    from gptwright.train.find_lr import find_lr
    from gptwright.train.report.sweep import sweep_text, write_sweep

    def told(step: int, lr: float, loss: float) -> None:
        if not quiet and step % max(1, steps // 10) == 0:
            say(f"step {step:>{len(str(steps))}}/{steps}  lr {lr:.2e}  loss {loss:.4f}")

    test = find_lr(settings, low=low, high=high, steps=steps, told=told)
    path = write_sweep(test, out, Path(config).stem)
    if as_json:
        print_json({**test.to_dict(), "out": str(path)})
        return
    if not quiet:
        say()
        say(sweep_text(test, width=max(30, min(78, shutil.get_terminal_size().columns - 1))))
        say()
    facts = {
        "to try": test.suggested,
        "steepest descent": test.steepest,
        "a tenth of where the loss turns": test.tenth,
        "the loss turns": test.turned,
    }
    for name, value in facts.items():
        write(f"{name:<33}{'–' if value is None else f'{value:.2g}'}\n")
    say(f"{test.sentence()}\nthe curve: {path}")
