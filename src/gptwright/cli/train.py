"""`gptwright train CONFIG key=value ...`: from settings to a trained model in a run folder."""

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwright.cli.output import JsonOption, OverridesArgument, QuietOption, TrustOption, print_json, say
from gptwright.cli.settings import resolve
from gptwright.errors import GptwrightError

if TYPE_CHECKING:
    from gptwright.train.config import RunConfig
    from gptwright.train.trainer import TrainResult

INTERRUPTED = 130
_CURVE_WIDTH = 78


def command(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="A YAML file or a preset; not needed with --resume.")
    ] = None,
    overrides: OverridesArgument = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="The run folder. Default: runs/<name of CONFIG>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest sound checkpoint.")] = False,
    resume_with: Annotated[
        list[str] | None,
        typer.Option(
            "--resume-with",
            metavar="KEY=VALUE",
            help="Go on with a setting changed on purpose that --resume would refuse; may be given several times.",
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Train the GPT that a YAML file describes, and leave a run folder.

    Settings follow as KEY=VALUE: gptwright train my.yaml train.steps=500 model.norm=rms_norm
    """
    on_purpose = list(resume_with or ())
    resume = resume or bool(on_purpose)
    settings, folder = _what_to_train(config, [*(overrides or ()), *on_purpose], run, resume, trust_code)
    result = run_training(settings, folder, resume=resume, resume_with=on_purpose, quiet=quiet)
    finish(result, settings, as_json=as_json, quiet=quiet)


def run_training(
    settings: "RunConfig",
    folder: Path,
    *,
    resume: bool = False,
    resume_with: Sequence[str] = (),
    quiet: bool = False,
) -> "TrainResult":
    """Train in ``folder``; progress goes to stderr."""
    from gptwright.train.loop import train

    progress = False if quiet else None
    return train(settings, run=folder, resume=resume, resume_with=resume_with, progress=progress)


def finish(result: "TrainResult", settings: "RunConfig", *, as_json: bool, quiet: bool) -> None:
    """Print what a run came to, and what to type next.

    Raises:
        typer.Exit: with code 130, the run was interrupted.
    """
    if as_json:
        print_json(result.to_dict())
    if result.interrupted:
        say(f"stopped at step {result.step:,} of {settings.train.steps:,}; everything is saved. Go on with:")
        say(f"  gptwright train --resume --run {shlex.quote(result.run)}")
        raise typer.Exit(INTERRUPTED)
    if not quiet:
        for line in (*_ending(result), "", *next_lines(result)):
            say(line)


def next_lines(result: "TrainResult") -> Sequence[str]:
    """Return the commands that a trained run invites to."""
    run = shlex.quote(result.run)
    commands = {
        f'gptwright generate {run} --prompt "{_a_word(result.run)}"': "let it write",
        f"gptwright eval {run}": "measure it on its whole validation split",
        str(Path(result.run) / "report.html"): "open it in a browser: curves, samples, settings",
    }
    width = max(map(len, commands))
    return ["What to type next:", *(f"  {line:<{width}}   {why}" for line, why in commands.items())]


def _what_to_train(
    config: str | None, overrides: list[str], run: Path | None, resume: bool, trust_code: bool
) -> tuple["RunConfig", Path]:
    """Return the settings and the run folder; a resumed run may bring its own settings."""
    from gptwright.train.loop import default_folder
    from gptwright.train.run import RunFolder

    if resume and config is not None:
        if Path(config).is_dir() and run is None:  # gptwright train --resume runs/demo
            run, config = Path(config), None
        elif "=" in config and not Path(config).exists():
            overrides, config = [config, *overrides], None
    if config is not None:
        folder = run or default_folder(config)
        own = RunFolder(folder).config_file if resume else None
        return resolve(config, overrides, trust_saved=trust_code, own=own).config, folder
    if not resume:
        raise GptwrightError(
            "no settings were given; name a YAML file or a preset (gptwright train CONFIG), or continue a run "
            "with --resume --run DIR"
        )
    if run is None:
        raise GptwrightError("--resume needs the run to continue; name its folder with --run DIR, or give its CONFIG")
    return resolve(RunFolder(run).require_config(), overrides, trust_code=trust_code).config, run


def _ending(result: "TrainResult") -> list[str]:
    from gptwright.train.report.terminal import loss_curve_text
    from gptwright.train.report.words import clock, compact
    from gptwright.train.run import RunFolder

    width = min(_CURVE_WIDTH, shutil.get_terminal_size().columns - 1)
    curve = loss_curve_text(RunFolder(result.run).metrics(), width=max(30, width))
    facts = (
        f"{result.run}: {result.step:,} steps, {compact(result.tokens)} tokens in {clock(result.train_seconds)} "
        f"({compact(result.tokens_per_second)} tokens/s)"
    )
    score = f"validation loss {result.val_loss:.4f} nats a token, {result.val_bits_per_byte:.4f} bits a byte"
    return ["", *curve.splitlines(), "", facts, score]


def _a_word(run: str) -> str:
    """Return a word that the run's tokenizer surely knows: one of its last sample's."""
    from gptwright.train.report.read import read_run

    samples = read_run(Path(run)).samples
    found = re.search(r"[^\W\d_]{3,}", samples[-1].text) if samples else None
    return found[0] if found else "The"
