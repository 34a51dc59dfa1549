"""`gptwright import SOURCE`: a model from elsewhere as a run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwright.cli.output import JsonOption, TrustOption, print_facts, print_json, say, write

if TYPE_CHECKING:
    from gptwright.interop.importing import Imported


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A model's folder, an id on the hub (owner/name), or a ckpt.pt of nanoGPT or llama2.c.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="The run folder to write. Default: runs/NAME.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit of the hub.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A folder or file with the tokenizer (also nanoGPT's meta.pkl), or byte."),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor and where it went.")] = False,
    as_json: JsonOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Read a model of the Hugging Face world, and write it as a run that every verb takes.

    Every tensor and every setting is accounted for: what has no place refuses the import, and code that a folder
    brings along is never run.
    """
    from gptwright.interop.importing import import_run

    folder = out or Path("runs") / (Path(source).expanduser().resolve().stem or "imported")
    found = import_run(source, folder, revision=revision, tokenizer=tokenizer, trust_code=trust_code)
    if as_json:
        print_json(found.to_dict())
        return
    if tensors:
        write("".join(f"{theirs} -> {', '.join(ours)}\n" for theirs, ours in found.found.places.items()))
        write("".join(f"{name} -> says nothing\n" for name in found.found.surplus))
    print_facts(_facts(found))
    for note in found.found.notes:
        say(f"note: {note}")


def _facts(imported: "Imported") -> list[tuple[str, str]]:
    found, told = imported.found, imported.to_dict()
    surplus = f", {len(found.surplus)} that say nothing ({_some(found.surplus)})" if found.surplus else ""
    facts = [
        ("written", str(imported.folder)),
        ("family", found.family),
        ("parameters", f"{told['params']:,} in {told['dtype']}"),
        ("tensors", f"{found.used + len(found.surplus)}: {found.used} used{surplus}"),
        ("tokenizer", f"{found.tokenizer.vocab_size:,} ids" if found.tokenizer is not None else "none"),
    ]
    return facts + ([("not understood", _some(found.unknown))] if found.unknown else [])


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
