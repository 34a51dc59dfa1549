"""The command line: `gptwright VERB`. A verb's module is imported when that verb is called, not before.

Exit codes: 0 done, 1 a fault of ours, 2 a mistake in what was asked, 130 interrupted.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import gptwright
from gptwright.errors import GptwrightError

VERBS = {
    "demo": "Train a small GPT on real text in about a minute, and let it talk.",
    "train": "Train the GPT that a YAML file describes.",
    "generate": "Continue a prompt with a trained GPT.",
    "chat": "Talk with a trained GPT.",
    "eval": "Measure a trained GPT: on its validation split, on a text, at tasks, or against another.",
    "quantize": "Write a trained GPT with weights of 8 or 4 bits.",
    "import": "Read a model of the Hugging Face world as a run.",
    "export": "Write a trained GPT for transformers, the hub or llama.cpp.",
    "count": "Print parameters and FLOPs without building anything.",
    "check": "Hold the contracts against a component, ours or your own.",
    "data": "Prepare text for training.",
    "config": "Show, check and compare settings.",
    "report": "Write the report of a run as one HTML file.",
    "runs": "List all runs as a table.",
    "plot": "Draw several runs into one chart.",
    "find-lr": "Try out learning rates, and suggest one.",
    "bench-decode": "Measure how fast a GPT writes, beside what memory allows.",
    "doctor": "Say what this machine can do, and what gptwright makes of it.",
}
"""Each verb with its help; its module, `gptwright.cli.<verb>` with `_` for `-` (and `import_`), holds `command`."""

INTERRUPTED = 130
# typer has carried its own copy of click since 0.25; its public errors lead to the base of either
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class LazyGroup(TyperGroup):
    """A group that lists its verbs from a table and imports only the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs, in the order of the table."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in that knows the verb's name and help."""
        del ctx
        return TyperCommand(cmd_name, help=VERBS[cmd_name]) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb itself; here its module is imported.

        Raises:
            GptwrightError: there is no such verb.
        """
        name = args[0]
        if name in VERBS:
            return name, verb(name), args[1:]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        close = get_close_matches(name, VERBS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise GptwrightError(f"there is no command '{name}'{hint} (commands: {', '.join(VERBS)})")


def verb(name: str) -> Any:
    """Import a verb: a function with typer's annotations, or a `typer.Typer` of several."""
    module = f"{name}_" if iskeyword(name) else name.replace("-", "_")
    found = import_module(f"gptwright.cli.{module}").command
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    invoke_without_command=True,
    help="Build, train, compare and run GPTs from interchangeable parts, named in one YAML file.",
)


@app.callback()
def _top(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (also: GPTWRIGHT_DEBUG=1).")
    ] = False,
) -> None:
    del debug  # taken out of the arguments by main, so that it may stand anywhere
    if version:
        typer.echo(f"gptwright {gptwright.__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one sentence on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("GPTWRIGHT_DEBUG", "0") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: _say(
            f"warning: {message}"
        )  # a sentence, without our line of code
        try:
            result = typer.main.get_command(app).main(arguments, prog_name="gptwright", standalone_mode=False)
            sys.stdout.flush()
        except BaseException as error:
            return _failed(error, debug)
    return result if isinstance(result, int) else 0


def _failed(error: BaseException, debug: bool) -> int:
    """Say what went wrong and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        _say("interrupted")
        return INTERRUPTED
    if type(error).__name__ == "NoArgsIsHelpError":  # a group of verbs alone; its help has been printed
        return 2
    mistake = isinstance(error, GptwrightError | _UsageError)
    if debug or not mistake:
        traceback.print_exception(error)
    _say(f"error: {_sentence(error)}")
    if not mistake:
        _say("this is a fault of gptwright, not yours; please report it with the lines above and your settings")
    return 2 if mistake else 1


def _sentence(error: BaseException) -> str:
    if isinstance(error, GptwrightError):
        return str(error)
    if not isinstance(error, _UsageError):
        return f"{type(error).__name__}: {error}"
    message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
    option = getattr(error, "option_name", None)
    if option and "." in option:
        message += f"; settings have no dashes: write {option.lstrip('-')}=VALUE"
    where = getattr(getattr(error, "ctx", None), "command_path", "gptwright")
    return f"{message[:1].lower()}{message[1:]} (see: {where} --help)"


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - stdout is for the result alone


if __name__ == "__main__":
    sys.exit(main())
