"""`gptwright config`: look at settings without running anything."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from gptwright.cli.settings import resolve
from gptwright.config.fields import MISSING, dotted
from gptwright.config.load import Resolved
from gptwright.config.schema import diff as differences
from gptwright.config.schema import json_schema
from gptwright.config.yaml import dump

command = typer.Typer(help="Show, check and compare settings.", no_args_is_help=True)

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a preset.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that win over the file's.")
]


@command.command()
def show(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    sources: Annotated[bool, typer.Option("--sources", help="Say where each value comes from.")] = False,
) -> None:
    """Print the settings as they will be used, defaults included."""
    resolved = resolve(config, overrides or ())
    sys.stdout.write(dump(resolved.config.to_dict(), _origins(resolved) if sources else {}))


@command.command()
def check(config: ConfigArgument, overrides: OverridesArgument = None) -> None:
    """Say whether the settings are right, or list everything that is wrong with them."""
    resolve(config, overrides or ())
    typer.echo(f"ok: {config}")


@command.command()
def schema() -> None:
    """Print the JSON Schema of all settings, for editors that complete and check YAML."""
    from gptwright.train.config import RunConfig

    typer.echo(json.dumps(json_schema(RunConfig), indent=2, ensure_ascii=False))


@command.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A YAML file, or the name of a preset.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
) -> None:
    """Print every setting in which two files differ, defaults included."""
    found = differences(resolve(a).config.to_dict(), resolve(b).config.to_dict())
    for path, first, second in found:
        typer.echo(f"{path}: {_shown(first)} -> {_shown(second)}")
    if not found:
        typer.echo("no difference")


def _shown(value: object) -> str:
    return "(not there)" if value is MISSING else json.dumps(value, ensure_ascii=False)


def _origins(resolved: Resolved[Any]) -> dict[str, str]:
    """Return the place of every value by dotted path, `default` for what nobody wrote."""
    return {dotted(path): _origin(resolved, path, value) for path, value in _leaves(resolved.config.to_dict())}


def _origin(resolved: Resolved[Any], path: tuple[str, ...], value: Any) -> str:
    if dotted(path) in resolved.sources:
        return str(resolved.sources[dotted(path)])
    written: Any = resolved.data
    for depth, key in enumerate(path):
        if not isinstance(written, dict):  # a bare name, which became the mapping that holds this value
            return str(resolved.sources[dotted(path[:depth])]) if written == value else "default"
        written = written.get(key, {})
    return "default"


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for key, child in value.items():
        yield from _leaves(child, (*path, key))
