"""`gptwright data`: text or ids become token shards, what such a folder holds, and shards become Parquet."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptwright.cli.output import (
    JsonOption,
    OverridesArgument,
    QuietOption,
    TrustOption,
    data_progress,
    print_facts,
    print_json,
    print_table,
    say,
    write,
)
from gptwright.cli.settings import resolve
from gptwright.errors import DataError
from gptwright.model import PRESETS

if TYPE_CHECKING:
    from gptwright.data.config import DataConfig
    from gptwright.data.index import SplitIndex
    from gptwright.data.shards import Prepared

command = typer.Typer(help="Prepare text for training.", no_args_is_help=True)


@command.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG_OR_SOURCE",
            help="A YAML file with data:, or the text itself: a file, a folder, hf:owner/name, python-docs, stdlib.",
        ),
    ],
    overrides: OverridesArgument = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="KIND", help="byte, char or bpe; the same as data.tokenizer.type=KIND.")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of bpe; the same as data.tokenizer.vocab_size=N.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to put it. Default: the cache, where train finds it.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Threads that tokenize. Default: one a core.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn text into hashed shards of token ids; train does it by itself when it has not been done."""
    config = _data_config(source, [*(overrides or ()), *_as_settings(tokenizer, vocab_size)])
    from gptwright.data.prepare import prepare as make
    from gptwright.tokenizer.load import make_tokenizer

    with data_progress(quiet=quiet) as progress:
        prepared = make(config, make_tokenizer=make_tokenizer, folder=out, progress=progress, workers=workers)
    _show(prepared, as_json=as_json)


@command.command()
def info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `data prepare` made.")],
    as_json: JsonOption = False,
) -> None:
    """Check every shard of prepared data against its hash, and say what it holds."""
    from gptwright.data.shards import Prepared

    _show(Prepared.open(folder), as_json=as_json)


@command.command("import")
def import_(
    train: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="nanoGPT's or llm.c's .bin, or Megatron's .bin with its .idx beside."),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What the ids mean: a folder, tokenizer.json, meta.pkl, byte, or owner/name."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to put it; then data.source=DIR uses it.")],
    val: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A file to validate on; may be given several times.")
    ] = None,
    val_fraction: Annotated[
        float, typer.Option(metavar="X", help="Without --val: about this part of the documents validates.")
    ] = 0.1,
    eot_id: Annotated[
        int | None, typer.Option(metavar="N", help="The id that ends each document. Default the tokenizer's.")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="Type of ids in a .bin: uint16 or uint32.")] = "uint16",
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make prepared data of token ids that others wrote."""
    from gptwright.data.adopt import import_tokens
    from gptwright.data.megatron import open_token_file
    from gptwright.data.token_files import check_dtype
    from gptwright.interop.token_import import tokenizer_named

    kind = check_dtype(dtype)
    with data_progress(quiet=quiet) as progress:
        prepared = import_tokens(
            [open_token_file(path, kind) for path in train],
            [open_token_file(path, kind) for path in val or ()],
            tokenizer_named(tokenizer, trust_code=trust_code),
            out,
            val_fraction=val_fraction,
            eot=eot_id,
            progress=progress,
        )
    _show(prepared, as_json=as_json)


@command.command()
def export(
    source: Annotated[
        str, typer.Argument(metavar="DIR_OR_CONFIG", help="A folder of prepared data, or a YAML file with data:.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="parquet: a row a document.")] = "parquet",
    text: Annotated[bool, typer.Option("--text", help="Decode each document into a column of text too.")] = False,
    overrides: OverridesArgument = None,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write prepared data for other tools."""
    from gptwright.data.export import export_parquet
    from gptwright.data.prepare import prepare as make
    from gptwright.tokenizer.load import load, make_tokenizer

    if to != "parquet":
        raise DataError(f"--to is '{to}', and prepared data is exported as parquet: choose that")
    config = _data_config(source, list(overrides or ()))
    with data_progress(quiet=quiet) as progress:
        prepared = make(config, make_tokenizer=make_tokenizer, progress=progress)
    tokenizer = load(prepared.tokenizer_folder, trust_code=trust_code) if text else None
    found = export_parquet(prepared, out, tokenizer=tokenizer)
    if as_json:
        print_json(found)
        return
    names = ("documents", "rows", "tokens")
    print_table(("file", *names), [(n, *(f"{c[each]:,}" for each in names)) for n, c in found["files"].items()])
    write("\n")
    print_facts([("folder", found["folder"])])


def _as_settings(tokenizer: str | None, vocab_size: int | None) -> list[str]:
    given = {"type": tokenizer, "vocab_size": vocab_size}
    return [f"data.tokenizer.{key}={value}" for key, value in given.items() if value is not None]


def _data_config(source: str, overrides: list[str]) -> "DataConfig":
    """Return the data settings of a YAML file or preset, or of a bare source with the settings given."""
    if Path(source).suffix in (".yaml", ".yml"):
        return resolve(source, overrides).config.require_data()
    from gptwright.config.base import Config
    from gptwright.config.load import load
    from gptwright.data.config import DataConfig

    class Alone(Config):
        """Settings of data without a model."""

        data: DataConfig

    found = load(Alone, None, [f"data.source={json.dumps(source)}", *overrides], search=[PRESETS])
    for note in found.notes:
        say(f"note: {note}")
    return found.config.data


def _show(prepared: "Prepared", *, as_json: bool) -> None:
    facts = _facts(prepared)
    if as_json:
        print_json(facts)
        return
    names = ("tokens", "bytes", "characters", "documents", "shards")
    rows = [(name, *(f"{part[each]:,}" for each in names)) for name, part in _lines(facts)]
    print_table(("split", *names), rows)
    write("\n")
    found = [
        ("source", facts["source"]),
        ("format", facts["format"]),
        ("tokenizer", f"{facts['tokenizer']}, {facts['vocab_size']:,} tokens"),
        ("bytes per token", f"{facts['bytes_per_token']:.3f}"),
        ("duplicates", f"{facts['duplicates']:,} documents left out" if facts["duplicates"] else ""),
        ("folder", facts["folder"]),
    ]
    print_facts([(name, value) for name, value in found if value])
    for note in facts["notes"]:
        say(f"note: {note}")


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield the splits of all parts together, and of a mixture those of each part."""
    yield from facts["splits"].items()
    for name, part in facts.get("parts", {}).items():
        yield from ((f"{name}: {split}", counts) for split, counts in part["splits"].items())


def _facts(prepared: "Prepared") -> dict[str, Any]:
    index = prepared.index
    splits = {"train": prepared.train, "val": prepared.val}
    tokens, size = (sum(getattr(part, name) for part in splits.values()) for name in ("tokens", "bytes"))
    found = {
        "folder": str(prepared.folder),
        "source": str(index.source.get("source", "")),
        "format": str(index.source.get("format", "text")),
        "notes": list(index.source.get("notes", ())),
        "tokenizer": index.tokenizer.type,
        "vocab_size": index.tokenizer.vocab_size,
        "bytes_per_token": size / tokens,
        "fingerprint": prepared.fingerprint,
        "duplicates": sum(part.duplicates for part in index.parts),
        "splits": {name: _split_facts(part) for name, part in splits.items()},
    }
    parts = {
        part.name: {
            "duplicates": part.duplicates,
            "splits": {name: _split_facts(part.splits[name]) for name in ("train", "val")},
        }
        for part in index.parts
    }
    return found | ({"parts": parts} if len(parts) > 1 else {})


def _split_facts(part: "SplitIndex") -> dict[str, int]:
    return {**part.model_dump(exclude={"shards"}), "shards": len(part.shards)}
