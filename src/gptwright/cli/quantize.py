"""`gptwright quantize RUN`: a trained GPT with weights of 8 or 4 bits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwright.cli.output import (
    JsonOption,
    QuietOption,
    TrustOption,
    data_progress,
    print_facts,
    print_json,
    say,
    size,
)

if TYPE_CHECKING:
    from gptwright.generate.quantize import Quantized


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")],
    bits: Annotated[int, typer.Option(metavar="8|4", help="Bits of each weight.")] = 8,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The folder to write. Default: RUN-int8 or RUN-int4.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Measure the change on other text, for example other.txt.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a quantized folder that is there.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Write a trained GPT with weights of 8 or 4 bits, and print what that does to its perplexity.

    The folder is used like a run: generate, eval and gptwright.load take it. It cannot be trained.
    """
    from gptwright.generate.quantize import quantize_run

    with data_progress(quiet=quiet) as progress:
        found = quantize_run(run, bits, out=out, data=data, force=force, trust_code=trust_code, progress=progress)
    if found.unmeasured:
        say(f"perplexity could not be measured: {found.unmeasured}; --data SOURCE measures it on other text")
    if as_json:
        print_json(found.to_dict())
        return
    print_facts([("written", str(found.folder)), *_facts(found)])


def _facts(found: "Quantized") -> list[tuple[str, str]]:
    share = found.bytes_after / found.bytes_before
    facts = [
        ("bits", str(found.bits)),
        ("weights", f"{size(found.bytes_before)} before, {size(found.bytes_after)} after ({share:.0%})"),
    ]
    if found.change is None:
        return facts
    figures = f"{found.perplexity_before:,.3f} before, {found.perplexity_after:,.3f} after ({found.change:+.2%})"
    return [*facts, ("perplexity", figures)]
