"""`gptwright bench-decode RUN`: how fast a model writes here, beside what the machine's memory allows."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwright.cli.output import (
    JsonOption,
    PrecisionOption,
    TrustOption,
    print_facts,
    print_json,
    print_table,
    say,
    size,
    write,
)
from gptwright.errors import GptwrightError

if TYPE_CHECKING:
    from gptwright.generate.speed import Speed, Spread
    from gptwright.model.gpt import GPT

_TOKENS = 64


def command(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run folder, or one of its checkpoints.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Random weights of a preset, such as gpt2-124m, or of a YAML file."),
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of each prompt. Default: 64, or less in a short context.")
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens to add. Default: 64, or less in a short context.")
    ] = None,
    rows: Annotated[str, typer.Option(metavar="N,N,...", help="Texts that are written at once.")] = "1",
    precision: PrecisionOption = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads to compute with. Default: torch's.")] = None,
    as_json: JsonOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Measure decoding: time to the first token, time and bytes a token, and the part of the memory's speed reached.

    Prompts are random tokens, continued greedily.
    """
    counts = _counts(rows)
    if threads is not None and threads < 1:
        raise GptwrightError(f"--threads is {threads} and must be at least 1")
    from gptwright.generate.bandwidth import read_bandwidth
    from gptwright.generate.speed import computing_with, decode_speed, prepared

    model = prepared(_model(run, preset, trust_code), precision)
    prompt, new = _lengths(model, prompt_tokens, new_tokens)
    with computing_with(threads):
        if not as_json:
            say("measuring; other work on this machine would slow it down")
        bandwidth = read_bandwidth(str(model.device), threads or 0)
        speeds = [
            decode_speed(
                model, prompt_tokens=prompt, new_tokens=new, rows=count, bandwidth=bandwidth, clock=time.perf_counter
            )
            for count in counts
        ]
    if as_json:
        print_json({"model": str(run or preset), **_kind(model), "speeds": [each.to_dict() for each in speeds]})
        return
    _print(str(run or f"{preset}, random weights"), model, speeds)


def _counts(rows: str) -> list[int]:
    try:
        counts = [int(word) for word in rows.split(",")]
    except ValueError:
        raise GptwrightError(f"--rows is '{rows}' and must be numbers with commas between, as in 1,4,16") from None
    if min(counts) < 1:
        raise GptwrightError(f"--rows is '{rows}', and each number must be at least 1")
    return counts


def _model(run: Path | None, preset: str | None, trust_code: bool) -> "GPT":
    if (run is None) == (preset is None):
        given = "neither was given" if run is None else "both were given"
        raise GptwrightError(f"what to measure is RUN or --preset NAME, and {given}; give one of the two")
    from gptwright.model.gpt import GPT
    from gptwright.train.load import load
    from gptwright.train.settings import read_settings

    if run is not None:
        return load(run, trust_code=trust_code)
    config = read_settings(preset).config.model
    if config.vocab_size is None:
        raise GptwrightError(f"{preset} does not say model.vocab_size; measure a preset that does, such as gpt2-124m")
    return GPT(config).eval()


def _lengths(model: "GPT", prompt: int | None, new: int | None) -> tuple[int, int]:
    """Return what was asked for; lengths that were not share what the context leaves."""
    context = model.config.max_seq_len
    if prompt is None:
        prompt = max(1, min(_TOKENS, context // 2 if new is None else context - new))
    return prompt, max(2, min(_TOKENS, context - prompt)) if new is None else new


def _kind(model: "GPT") -> dict[str, object]:
    import torch

    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in model.state_dict().values()})
    return {
        "params": model.num_params(),
        "dtypes": dtypes,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
    }


def _print(name: str, model: "GPT", speeds: "list[Speed]") -> None:
    first, kind = speeds[0], _kind(model)
    print_facts(
        [
            ("measured", name),
            ("parameters", f"{model.num_params():,} in {', '.join(kind['dtypes'])}"),  # pyright: ignore[reportArgumentType, reportCallIssue]
            ("prompt", f"{first.prompt_tokens:,} tokens, {first.new_tokens:,} new ones"),
            ("device", f"{model.device}, {kind['threads']} threads"),
            ("read bandwidth", f"{size(first.bandwidth)}/s"),
        ]
    )
    write("\n")
    columns = ("texts at once", "first token", "a step", "tokens/s", "bytes a step", "of bandwidth", "above it")
    print_table(columns, [_row(each) for each in speeds], right=0)
    write("\nbytes a step: weights read once, and the states of all texts half-way through the new tokens\n")


def _row(speed: "Speed") -> tuple[str, ...]:
    return (
        str(speed.rows),
        _milliseconds(speed.first_token),
        _milliseconds(speed.step),
        f"{speed.tokens_per_second:,.1f}",
        f"{size(speed.weight_bytes)} + {size(speed.state_bytes)}",
        f"{100 * speed.fraction:.1f} %",
        f"{1e6 * speed.overhead:,.0f} us",
    )


def _milliseconds(seconds: "Spread") -> str:
    return f"{1e3 * seconds.median:.2f} ms ({1e3 * seconds.low:.2f} to {1e3 * seconds.high:.2f})"
