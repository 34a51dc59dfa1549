"""`gptwright generate RUN --prompt ...`: text as it comes."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwright.cli.output import JsonOption, TrustOption, print_json, write
from gptwright.errors import DataError, GptwrightError

if TYPE_CHECKING:
    from gptwright.generate.text import Sampling
    from gptwright.model.gpt import GPT


@dataclass(frozen=True)
class Written:
    """One continuation."""

    text: str
    """The prompt and what follows it."""
    new_tokens: int
    """Tokens added."""
    seconds: float
    """Time for reading the prompt and adding them."""


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")],
    prompt: Annotated[
        str | None, typer.Option(help="The text to continue; - reads it from stdin. Default: begin a new document.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the prompt from a file; - is stdin.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add at most.")] = 200,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 is safer, above 1 is bolder, 0 takes the likeliest. Default: 0.8.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among this many likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw among the likeliest tokens of this joint probability.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the draw repeatable.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token.")] = False,
    num_samples: Annotated[int, typer.Option(help="How many continuations to write.")] = 1,
    as_json: JsonOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Continue a prompt with a trained GPT; the text streams to stdout as it comes.

    With --json the object holds text (prompt included), prompt, new_tokens, seconds, tokens_per_second and, when
    there are several, samples: text is then the first of them.
    """
    if num_samples < 1:
        raise GptwrightError(f"--num-samples is {num_samples} and must be at least 1")
    text = _prompt(prompt, prompt_file)
    from gptwright.generate.text import Sampling
    from gptwright.train.load import load

    heat = _temperature(temperature, greedy)
    sampling = Sampling(max_new_tokens, heat, top_k, top_p, seed)
    model = load(run, trust_code=trust_code)
    written = []
    for each in range(num_samples):
        if each and not as_json:
            write("\n---\n")
        drawn = sampling if seed is None else replace(sampling, seed=seed + each)
        written.append(_write(model, text, drawn, silent=as_json))
    if as_json:
        print_json(_report(text, written))


def _write(model: "GPT", prompt: str, sampling: "Sampling", *, silent: bool) -> Written:
    """Continue ``prompt``, on stdout unless ``silent``; nothing is printed before the first token is there."""
    from gptwright.generate.text import stream

    show = _shown()
    began = time.perf_counter()
    pieces: list[str] = []
    for piece in stream(model, prompt, sampling):
        if not silent:
            write(show(piece) if pieces else show(prompt + piece))
        pieces.append(piece)
    seconds = time.perf_counter() - began
    if not silent:
        write("\n")
    return Written(prompt + "".join(pieces), len(pieces) - 1, seconds)  # the last piece is what was left over


def _shown() -> Callable[[str], str]:
    """Return what makes a piece fit to print: on a terminal, a model's control characters are not obeyed."""
    if not sys.stdout.isatty():
        return str
    from gptwright.train.display import visible

    return visible


def _report(prompt: str, written: list[Written]) -> dict[str, object]:
    tokens, seconds = sum(each.new_tokens for each in written), sum(each.seconds for each in written)
    found: dict[str, object] = {
        "text": written[0].text,
        "prompt": prompt,
        "new_tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
    }
    return found if len(written) == 1 else {**found, "samples": [asdict(each) for each in written]}


def _temperature(given: float | None, greedy: bool) -> float:
    if greedy and given:
        raise GptwrightError(
            f"--greedy takes the likeliest token and --temperature {given:g} draws among several; give one of the two"
        )
    return 0.0 if greedy else 0.8 if given is None else given


def _prompt(prompt: str | None, file: Path | None) -> str:
    """Return the prompt, from wherever it was asked to come."""
    if prompt is not None and file is not None:
        raise GptwrightError("--prompt and --prompt-file were both given; give one of the two")
    if prompt != "-" and file is None:
        return prompt or ""
    name, raw = _read(file)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the prompt in {name} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; save it as UTF-8"
        ) from None


def _read(file: Path | None) -> tuple[str, bytes]:
    if file is None or str(file) == "-":
        return "stdin", sys.stdin.buffer.read()
    try:
        return str(file), file.read_bytes()
    except OSError as error:
        raise DataError(f"the prompt file {file} cannot be read: {error.strerror}; give one that can") from None
