"""`gptwright check CLASS`: hold the laws of a component against a class, and say which it keeps."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gptwright.cli.output import JsonOption, QuietOption, print_json, write
from gptwright.config.load import command_line
from gptwright.errors import GptwrightError

if TYPE_CHECKING:
    from gptwright.check.run import Report, Verdict

_OUTCOMES = {"kept": "kept", "broken": "BROKEN", "open": "open"}


def command(
    component: Annotated[
        str, typer.Argument(metavar="CLASS", help="package.module:Class, file.py:Class, or a name such as softmax.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Its settings, instead of its EXAMPLES; model.KEY=VALUE for the model around it."
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run every contract test on a component, in small models built around it, and report what was found."""
    given: dict[str, Any] = command_line(settings or []).plain()
    around = given.pop("model", {})
    if not isinstance(around, dict):
        raise GptwrightError(f"model={around} says nothing; set what surrounds the component, as in model.d_model=48")
    report = _checked(component, given, around, quiet=quiet or as_json)
    if as_json:
        print_json(report.to_dict())
    else:
        write("\n".join(_lines(report)) + "\n")
    if report.broken:
        raise GptwrightError(_verdict(report)) from report.broken[0].error


def _checked(component: str, settings: dict[str, Any], around: dict[str, Any], *, quiet: bool) -> "Report":
    from gptwright.check.run import check

    if quiet or not sys.stderr.isatty():
        return check(component, settings, around)
    with Console(stderr=True).status(component) as status:
        return check(component, settings, around, tell=lambda law: status.update(f"{component}: {law}"))


def _lines(report: "Report") -> list[str]:
    width = max(len(verdict.law) for verdict in report.verdicts) + 2
    lines = [f"{report.name} as {report.kind} in models of d_model {report.d_model}, with {_examples(report)}", ""]
    lines += [
        f"{verdict.law:<{width}}{_OUTCOMES[verdict.outcome]:<8}{_remark(verdict)}".rstrip()
        for verdict in report.verdicts
    ]
    for verdict in report.broken:
        lines += ["", f"BROKEN: {verdict.law}", f"  promised  {verdict.promise}", f"  found     {verdict.words}"]
        lines += [f"  with      {verdict.settings}"] if len(report.examples) > 1 else []
    return lines if report.broken else [*lines, "", _verdict(report)]


def _remark(verdict: "Verdict") -> str:
    return "see below" if verdict.outcome == "broken" else verdict.words


def _examples(report: "Report") -> str:
    if len(report.examples) > 1:
        return f"its {len(report.examples)} examples"
    return ", ".join(f"{key}={value}" for key, value in report.examples[0].items()) or "no settings"


def _verdict(report: "Report") -> str:
    laws, broken = len(report.verdicts), report.broken
    if not broken:
        return f"{report.name} keeps all {laws} laws"
    names = ", ".join(f"'{verdict.law}'" for verdict in broken)
    waiting = sum(verdict.outcome == "open" for verdict in report.verdicts)
    rest = f"; {waiting} that rest on {'it' if len(broken) == 1 else 'them'} stay open" if waiting else ""
    return f"{report.name} breaks {len(broken)} of {laws} laws: {names}{rest}"
