"""`gptwright export RUN FOLDER`: a trained GPT for transformers, the hub or llama.cpp."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gptwright.cli.output import JsonOption, TrustOption, print_facts, print_json, say, size
from gptwright.errors import GptwrightError


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Where to; for gguf also a file that ends in .gguf.")
    ] = None,
    to: Annotated[str, typer.Option(metavar="hf|gguf", help="hf for transformers, gguf for llama.cpp.")] = "hf",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="f32|f16|bf16|q8_0", help="Type of number. Default: as stored; for gguf f16."),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="hf: the model_type that it must become, or gptwright for our own class."),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="hf: send it to the hub too, or instead of to FOLDER.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see a model that --push makes.")] = False,
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="hf: most bytes of one file of weights.")] = "5GB",
    best: Annotated[bool, typer.Option("--best", help="The checkpoint of the lowest validation loss.")] = False,
    as_json: JsonOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Write a trained GPT for others: a Hugging Face folder with tokenizer and model card, or a GGUF file.

    Where the parts are those of a class of transformers (GPT-2, Llama, Mistral, Mixtral, Qwen, Gemma ...) the folder
    is of that class; any other combination of parts brings its own small modeling file.
    """
    if folder is None and push is None:
        raise GptwrightError("there is no place to export to; name a folder, or the hub's owner/name with --push")
    if push is not None and to != "hf":
        raise GptwrightError(f"--push sends what --to hf writes, and --to is {to}; leave one of them out")
    from gptwright.interop.exporting import export, push_to_hub

    options: dict[str, Any] = {"dtype": dtype, "best": best, "trust_code": trust_code}
    options |= {"family": family, "max_shard_size": max_shard_size}
    facts: dict[str, Any] = {}
    if folder is not None:
        facts = export(run, folder, to=to, **options)  # pyright: ignore[reportArgumentType] - checked there
    if push is not None:
        facts["url"] = push_to_hub(run, push, private=not public, **options)
    if as_json:
        print_json(facts)
        return
    print_facts(_hf_facts(facts) if to == "hf" else _gguf_facts(facts))
    for why in facts.get("why", []):
        say(f"note: no class of transformers computes this; nearest is {why}")
    for note in facts.get("notes", []):
        say(f"note: {note}")


def _hf_facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if "folder" in facts:
        trust = "; load it with trust_remote_code=True" if facts["needs_code"] else ""
        found = [
            ("written", facts["folder"]),
            ("class", f"{facts['architecture']} ({facts['model_type']}){trust}"),
            ("tensors", f"{facts['tensors']} in {facts['dtype']}"),
        ]
    return found + ([("sent to", facts["url"])] if "url" in facts else [])


def _gguf_facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    kept = f", {len(facts['kept_f16'])} matrices in f16" if facts["kept_f16"] else ""
    return [
        ("written", f"{facts['file']} ({size(facts['bytes'])})"),
        ("architecture", str(facts["architecture"])),
        ("tensors", f"{facts['tensors']} in {facts['dtype']}{kept}"),
        ("vocabulary", str(facts["vocabulary"])),
    ]
