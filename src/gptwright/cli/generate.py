"""`gptwright generate RUN --prompt ...`: text as it comes, or answers to a file of prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptwright.cli.output import (
    JsonOption,
    PrecisionOption,
    QuietOption,
    TrustOption,
    print_json,
    say,
    say_if_compiling,
)
from gptwright.errors import GptwrightError

if TYPE_CHECKING:
    from gptwright.cli.asked import Asked
    from gptwright.cli.prompts import Line
    from gptwright.model.gpt import GPT

WHAT, DRAW, WHEN, PRINT = "What to continue", "How to draw", "When to stop", "What to print"
PAGE = Path("probabilities.html")


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="The text to continue; - reads it from stdin. May be given several times. Default: begin a document.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the prompt from a file; - is stdin.", rich_help_panel=WHAT)
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Many prompts: .jsonl with {"prompt": ...} a line, other fields are kept and "sampling" may hold '
            "settings of its own; or .txt with a prompt a line.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where answers to --prompts go, an object a line. What is there is kept; the rest is added.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option(help="Continuations of each prompt.", rich_help_panel=WHAT)] = 1,
    rows: Annotated[
        int | None, typer.Option(help="Texts to write at the same time. Default: 16.", rich_help_panel=WHAT)
    ] = None,
    overflow: Annotated[
        str | None,
        typer.Option(
            metavar="refuse|slide",
            help="Where positions end: refuse what has no room, or slide on with the latest part. Default: refuse.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Below 1 is safer, above 1 is bolder, 0 takes the likeliest. Default: 0.8.", rich_help_panel=DRAW
        ),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token.", rich_help_panel=DRAW)] = False,
    top_k: Annotated[
        int | None, typer.Option(help="Draw among this many likeliest tokens.", rich_help_panel=DRAW)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw among the likeliest tokens of this joint probability.", rich_help_panel=DRAW),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Rule out what is less likely than this share of the likeliest.", rich_help_panel=DRAW),
    ] = None,
    typical_p: Annotated[
        float | None,
        typer.Option(help="Draw among the tokens nearest to the expected surprise.", rich_help_panel=DRAW),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1 shuns tokens of the prompt and the text.", rich_help_panel=DRAW)
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option(help="Above 0 shuns tokens of the new text.", rich_help_panel=DRAW)
    ] = None,
    frequency_penalty: Annotated[
        float | None, typer.Option(help="The same, for each time that they occurred.", rich_help_panel=DRAW)
    ] = None,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN=VALUE",
            help="Add to a token's logit: 17=-5 by its id, or ' the'=2 by its text (in quotes where it is a number). "
            "May be given several times.",
            rich_help_panel=DRAW,
        ),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Write only what matches this regular expression.", rich_help_panel=DRAW)
    ] = None,
    json_schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write only JSON that obeys this schema.", rich_help_panel=DRAW),
    ] = None,
    beams: Annotated[
        int | None, typer.Option(help="Search for the likeliest text with so many beams.", rich_help_panel=DRAW)
    ] = None,
    length_penalty: Annotated[
        float, typer.Option(help="With --beams: above 0 favours longer texts.", rich_help_panel=DRAW)
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes the draw repeatable.", rich_help_panel=DRAW)] = None,
    speculate: Annotated[
        bool,
        typer.Option("--speculate", help="Guess from repetitions; the text stays the same.", rich_help_panel=DRAW),
    ] = False,
    precision: PrecisionOption = None,
    draft: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Guess with this smaller model; the text stays the same.", rich_help_panel=DRAW
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens to add at most. Default: 200, or what has room.", rich_help_panel=WHEN)
    ] = None,
    min_new_tokens: Annotated[
        int | None, typer.Option(help="Nothing stops the text before so many.", rich_help_panel=WHEN)
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help=r"Stop before this text; \n, \t and \\ are understood. May be given several times.",
            rich_help_panel=WHEN,
        ),
    ] = None,
    stop_id: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="Stop at this token id.", rich_help_panel=WHEN)
    ] = None,
    stop_token: Annotated[
        list[str] | None, typer.Option(metavar="TOKEN", help="Stop at this token.", rich_help_panel=WHEN)
    ] = None,
    ignore_end: Annotated[
        bool, typer.Option("--ignore-end", help="Write on after the end of a text.", rich_help_panel=WHEN)
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="With --json or --out: log-probabilities, and the K likeliest.", rich_help_panel=PRINT
        ),
    ] = None,
    show_probs: Annotated[
        bool,
        typer.Option(
            "--show-probs",
            help=f"Colour each token by its probability, and write a page with the alternatives ({PAGE}).",
            rich_help_panel=PRINT,
        ),
    ] = False,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where that page goes.", rich_help_panel=PRINT)
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Continue a prompt with a trained GPT; the text streams to stdout as it comes.

    With --json the object holds text (prompt included), prompt, finish_reason, prompt_tokens, new_tokens, seconds,
    tokens_per_second and, when there are several, samples: text is then the first of them.
    """
    from gptwright.cli.asked import Asked, read_schema
    from gptwright.cli.prompts import read_lines, read_prompts
    from gptwright.generate.speed import prepared
    from gptwright.train.load import load

    picture = (page or PAGE) if show_probs or page is not None else None
    if logprobs is not None and not (as_json or prompts or picture):
        raise GptwrightError("--logprobs shows in --json, --out and --show-probs; add one of them, or leave it out")
    _check_together(many=prompts, out=out, single=prompt or prompt_file, beams=beams, picture=picture)
    asked = Asked(
        sampling={
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "typical_p": typical_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "min_new_tokens": min_new_tokens,
            "logprobs": logprobs,
            "seed": seed,
            "ignore_end": ignore_end or None,
        },
        greedy=greedy,
        logit_bias=logit_bias or (),
        stop=stop or (),
        stop_ids=stop_id or (),
        stop_tokens=stop_token or (),
        how={
            "overflow": overflow,
            "rows": rows,
            "regex": regex,
            "json_schema": read_schema(json_schema),
            "speculate": "prompt" if speculate else None,
        },
        samples=num_samples,
        beams=beams,
        length_penalty=length_penalty,
        show=picture is not None,
    )
    asked.check()
    lines = None if prompts is None else read_lines(prompts)
    texts = read_prompts(prompt, prompt_file) if lines is None else []
    model = prepared(load(run, trust_code=trust_code), precision)
    say_if_compiling()
    if draft is not None:
        asked = asked.guessed_by(prepared(load(draft, trust_code=trust_code), precision))
    if lines is None or prompts is None or out is None:
        _tell(model, texts, asked, as_json=as_json, page=picture)
    else:
        _answer(model, lines, asked, prompts, out, as_json=as_json, quiet=quiet)


def _tell(model: "GPT", texts: list[str], asked: "Asked", *, as_json: bool, page: Path | None) -> None:
    from gptwright.cli.told import tell

    tell(model, texts, asked, as_json=as_json, page=page)


def _answer(
    model: "GPT", lines: "list[Line]", asked: "Asked", source: Path, out: Path, *, as_json: bool, quiet: bool
) -> None:
    from gptwright.cli.answers import answer

    done = answer(model, lines, asked, source, out, quiet=quiet)
    if as_json:
        print_json({"out": str(out), **vars(done)})
    elif not quiet:
        before = f", {done.kept} of them from before" if done.kept else ""
        say(f"{done.lines} answers are in {out}{before}")


def _check_together(
    *, many: Path | None, out: Path | None, single: Any, beams: int | None, picture: Path | None
) -> None:
    """Refuse options that contradict each other."""
    if many is None and out is not None:
        raise GptwrightError("--out says where the answers to --prompts go; give --prompts too, or leave it out")
    if many is None:
        return
    if out is None:
        raise GptwrightError("--prompts holds many prompts, and their answers go to a file; name it with --out")
    for option, value in (("--prompt", single), ("--beams", beams), ("--show-probs", picture)):
        if value is not None:
            raise GptwrightError(f"--prompts and {option} were both given; give one of the two")
