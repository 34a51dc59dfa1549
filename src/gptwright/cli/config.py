"""`gptwright config`: look at settings without running anything."""

import json
import sys
from typing import Annotated

import typer

from gptwright.cli.settings import resolve

command = typer.Typer(help="Show, check and compare settings.", no_args_is_help=True)

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a preset.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the file's.")
]


@command.command()
def show(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    sources: Annotated[bool, typer.Option("--sources", help="Say where each value comes from.")] = False,
) -> None:
    """Print the settings as they will be used, defaults included."""
    from gptwright.config.yaml import dump

    resolved = resolve(config, overrides or ())
    data = resolved.config.to_dict()
    notes = {path: str(resolved.sources.get(path, "default")) for path in _leaves(data)} if sources else {}
    sys.stdout.write(dump(data, notes))


@command.command()
def check(config: ConfigArgument, overrides: OverridesArgument = None) -> None:
    """Say whether the settings are right, or list everything that is wrong with them."""
    resolve(config, overrides or ())
    typer.echo(f"ok: {config}")


@command.command()
def schema() -> None:
    """Print the JSON Schema of all settings, for editors that complete and check YAML."""
    from gptwright.config.schema import json_schema
    from gptwright.train.config import RunConfig

    typer.echo(json.dumps(json_schema(RunConfig), indent=2, ensure_ascii=False))


@command.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A YAML file, or the name of a preset.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
) -> None:
    """Print every setting in which two files differ, defaults included."""
    from gptwright.config.schema import diff as differences

    found = differences(resolve(a).config.to_dict(), resolve(b).config.to_dict())
    for path, first, second in found:
        typer.echo(f"{path}: {_shown(first)} -> {_shown(second)}")
    if not found:
        typer.echo("no difference")


def _shown(value: object) -> str:
    from gptwright.config.fields import MISSING

    return "(not there)" if value is MISSING else json.dumps(value, ensure_ascii=False)


def _leaves(data: object, path: str = "") -> list[str]:
    if not isinstance(data, dict) or not data:
        return [path]
    return [leaf for key, value in data.items() for leaf in _leaves(value, f"{path}.{key}" if path else key)]
