"""`gptwright eval RUN`: how well a trained GPT predicts text that it has not learnt from, or does at tasks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gptwright.cli.output import (
    JsonOption,
    PrecisionOption,
    QuietOption,
    TrustOption,
    data_progress,
    print_facts,
    print_json,
    print_table,
    say,
    write,
)
from gptwright.errors import GptwrightError

_TASKS_ONLY = ("num_fewshot", "limit", "include_path", "batch_size", "gen_kwargs", "chat_template")


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")],
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Another source of text, for example other.txt.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="val|train", help="train shows how much was memorised.")] = "val",
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score a whole text file, in windows that overlap.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(metavar="N", help="With --text: tokens from one window to the next (half of it).")
    ] = None,
    context: Annotated[
        int | None, typer.Option(metavar="N", help="With --text: tokens of a window. Default: the model's context.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Tasks of lm-evaluation-harness: names, YAML files or folders of them."),
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(metavar="N", help="Worked examples before each question.")] = None,
    limit: Annotated[
        float | None, typer.Option(metavar="N", help="Documents of each task; below 1, a part of them.")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of YAML files whose tasks may be named.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Rows that are fed at once, at most. Default: what suits them.")
    ] = None,
    gen_kwargs: Annotated[
        str | None, typer.Option(metavar="K=V,K=V", help="Generation settings that win over those of the tasks.")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Write questions as the tokenizer's chat template does.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Another run: which is better on the same documents?")
    ] = None,
    precision: PrecisionOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON object to a file too.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Measure a trained GPT: on its validation split, on a text, at tasks, or against another run."""
    asked = {**locals()}
    _check(asked)
    from gptwright.train.load import load

    models = [load(path, trust_code=trust_code) for path in (run, against) if path is not None]
    if tasks is not None:
        found = _at_tasks(models, asked)
    elif against is not None:
        found = _on_the_same_documents(models, asked)
    elif text is not None:
        found = _on_a_text(models[0], asked)
    else:
        found = _on_a_split(models[0], asked)
    _keep(found, asked)


def _check(asked: dict[str, Any]) -> None:
    """Refuse options that contradict each other, or would be ignored."""
    if asked["split"] not in ("val", "train"):
        raise GptwrightError(f"--split is '{asked['split']}' and must be val or train")
    sources = [f"--{name}" for name in ("tasks", "text", "data") if asked[name] is not None]
    if len(sources) > 1:
        raise GptwrightError(f"{' and '.join(sources)} were given, and each says what to measure on; give one of them")
    windows = asked["text"] is not None or (asked["against"] is not None and asked["tasks"] is None)
    _refuse_idle(asked, ("stride", "context"), "--text or --against", windows)
    _refuse_idle(asked, _TASKS_ONLY, "--tasks", asked["tasks"] is not None)
    _refuse_idle(asked, ("precision",), "--text, --tasks or --against", windows or asked["tasks"] is not None)


def _refuse_idle(asked: dict[str, Any], names: tuple[str, ...], belongs: str, used: bool) -> None:
    idle = [name for name in names if asked[name] not in (None, False)]
    if idle and not used:
        raise GptwrightError(f"--{idle[0].replace('_', '-')} goes with {belongs}; leave it out, or give that too")


def _on_a_split(model: Any, asked: dict[str, Any]) -> dict[str, Any]:
    from gptwright.evaluate.likelihood import evaluate

    data, split = asked["data"], asked["split"]
    with data_progress(quiet=asked["quiet"]) as progress:
        score = evaluate(model, data={"source": data} if data else None, split=split, progress=progress)
    if not asked["as_json"]:
        source = data or model.settings.data.described
        print_facts([("measured", f"{asked['run']} on the {split} split of {source}"), *_facts(score)])
    return score.to_dict()


def _on_a_text(model: Any, asked: dict[str, Any]) -> dict[str, Any]:
    from gptwright.evaluate.strided import first_after, score_text, window

    context, stride = window(model, asked["context"], asked["stride"])
    score = score_text(model, _read(asked["text"]), context=context, stride=stride, **_precision(asked))
    first = first_after(model.tokenizer)
    told = f"predicted after {model.tokenizer.decode(first)!r}" if first else "not counted: nothing stands before it"
    if not asked["as_json"]:
        where = f"{asked['run']} on {asked['text']}"
        windows = f"{context} tokens, moving on by {stride}"
        print_facts([("measured", where), *_facts(score), ("windows", windows), ("first token", told)])
    return {**score.to_dict(), "context": context, "stride": stride, "first_token_counted": bool(first)}


def _on_the_same_documents(models: list[Any], asked: dict[str, Any]) -> dict[str, Any]:
    from gptwright.evaluate.compare import compare_texts
    from gptwright.evaluate.documents import documents_of, other_data

    notes: tuple[str, ...] = ()
    if asked["text"] is not None:
        texts = [_read(asked["text"])]
    else:
        notes = () if asked["data"] is not None else other_data(models[0], models[1], _names(asked))
        data = None if asked["data"] is None else {"source": asked["data"]}
        texts = documents_of(models[0], data, asked["split"])
    windows = {name: asked[name] for name in ("context", "stride")}
    found = compare_texts(models[0], models[1], texts, names=_names(asked), **windows, **_precision(asked))
    found = replace(found, notes=(*found.notes, *notes))
    if not asked["as_json"]:
        rows = [(name, f"{value:.4f} bits a byte") for name, value in zip(found.names, found.values, strict=True)]
        print_facts([*rows, ("verdict", found.sentence), *(("note", note) for note in found.notes)])
    return found.to_dict()


def _at_tasks(models: list[Any], asked: dict[str, Any]) -> dict[str, Any]:
    from gptwright.evaluate.harness import plain, run_tasks, table

    limit = asked["limit"]
    results = [
        run_tasks(
            model,
            [name.strip() for name in asked["tasks"].split(",") if name.strip()],
            num_fewshot=asked["num_fewshot"],
            limit=int(limit) if limit is not None and limit >= 1 else limit,
            batch_size=asked["batch_size"],
            include_path=asked["include_path"],
            gen_kwargs=_pairs(asked["gen_kwargs"]),
            apply_chat_template=asked["chat_template"],
            samples=len(models) > 1,
            quiet=asked["quiet"],
            trust_code=asked["trust_code"],
            **_precision(asked),
        )
        for model in models
    ]
    if len(models) > 1:
        return _at_tasks_against(results, asked)
    if not asked["as_json"]:
        print_table(("task", "filter", "shots", "metric", "value", "+-"), table(results[0]), right=2)
    return plain(results[0])


def _at_tasks_against(results: list[dict[str, Any]], asked: dict[str, Any]) -> dict[str, Any]:
    from gptwright.evaluate.compare_tasks import compare_tasks
    from gptwright.evaluate.harness import plain

    found = compare_tasks(*results, names=_names(asked))
    if not asked["as_json"]:
        for each in found:
            write(f"{each.sentence}\n")
        if len(found) > 1:
            say(f"of {len(found)} comparisons about one in 20 seems decided by chance alone")
    whole = [{key: value for key, value in plain(result).items() if key != "samples"} for result in results]
    return {"comparisons": [each.to_dict() for each in found], "results": whole}


def _names(asked: dict[str, Any]) -> tuple[str, str]:
    return str(asked["run"]), str(asked["against"])


def _precision(asked: dict[str, Any]) -> dict[str, Any]:
    return {} if asked["precision"] is None else {"precision": asked["precision"]}


def _facts(score: Any) -> list[tuple[str, str]]:
    return [
        ("loss", f"{score.loss:.4f} nats a token"),
        ("bits per byte", f"{score.bits_per_byte:.4f}"),
        ("perplexity", f"{score.perplexity:,.2f}"),
        ("tokens", f"{score.tokens:,}"),
    ]


def _read(path: Path) -> str:
    """Return the text of a file, its characters as they are."""
    from gptwright.data.base import text_pieces

    if not path.is_file():
        raise GptwrightError(f"there is no file {path} (current directory {Path.cwd()}); --text reads one text file")
    return "".join(piece.text for piece in text_pieces(path))


def _pairs(given: str | None) -> dict[str, Any]:
    """Return ``key=value,key=value`` as settings; values are read as JSON where they can be."""
    found: dict[str, Any] = {}
    for pair in (given or "").split(",") if given else ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise GptwrightError(f"--gen-kwargs has '{pair}', and wants key=value,key=value, such as max_gen_toks=32")
        try:
            found[key.strip()] = json.loads(value)
        except ValueError:
            found[key.strip()] = value
    return found


def _keep(found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Print and write the JSON object, where that was asked for."""
    if asked["as_json"]:
        print_json(found)
    if asked["out"] is not None:
        try:
            asked["out"].parent.mkdir(parents=True, exist_ok=True)
            asked["out"].write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
        except OSError as error:
            raise GptwrightError(f"cannot write {asked['out']}: {error.strerror}") from None
