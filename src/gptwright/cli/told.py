"""How continuations are told: as they come, as one JSON object, or coloured by probability."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptwright.cli.asked import Asked
from gptwright.cli.output import print_json, say, write
from gptwright.generate.completion import Completion
from gptwright.generate.probabilities import print_probabilities, write_page
from gptwright.generate.writer import Continuation, Writer
from gptwright.model.gpt import GPT
from gptwright.train.display import visible

BETWEEN = "\n---\n"
"""What stands between one text and the next."""


def tell(model: GPT, prompts: list[str], asked: Asked, *, as_json: bool, page: Path | None) -> None:
    """Continue ``prompts`` and print what comes; an interruption prints what there is, and goes on upwards."""
    if asked.beams is not None:
        _tell_whole(asked.search(model, prompts), as_json=as_json)
        return
    writer, sampling = Writer(model, asked.writing(asked.samples * len(prompts))), asked.draw(model.tokenizer)
    going = [writer.submit(text, sampling, sample=sample) for text in prompts for sample in range(asked.samples)]
    if not as_json and not asked.show:
        _stream(going)
        return
    try:
        writer.run()
    except KeyboardInterrupt:
        _tell_parts(model, going, asked, as_json=as_json, page=page)
        raise
    _tell_parts(model, going, asked, as_json=as_json, page=page)


def report(found: list[Completion]) -> dict[str, Any]:
    """Return continuations as one JSON object; where there are several, the first counts as the text."""
    tokens, seconds = sum(len(each.ids) for each in found), max(each.seconds for each in found)
    whole = {
        **_told(found[0]),
        "new_tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
    }
    return whole if len(found) == 1 else {**whole, "samples": [_told(each) for each in found]}


def _told(found: Completion) -> dict[str, Any]:
    told = {
        "text": found.full,
        "prompt": found.prompt,
        "finish_reason": found.finish_reason,
        "prompt_tokens": found.prompt_tokens,
        "new_tokens": len(found.ids),
        "seconds": found.seconds,
    }
    return told if found.tokens is None else {**told, "tokens": [each.to_dict() for each in found.tokens]}


def _tell_whole(found: list[Completion], *, as_json: bool) -> None:
    if as_json:
        print_json(report(found))
    else:
        write(BETWEEN.join(_shown()(each.full) + "\n" for each in found))


def _tell_parts(model: GPT, going: list[Continuation], asked: Asked, *, as_json: bool, page: Path | None) -> None:
    """Tell everything at once, finished or not."""
    found = [each.completion() for each in going]
    if page is not None:
        _picture(found, model, page, asked, silent=as_json)
    if as_json:
        print_json(report(found))


def _stream(going: list[Continuation]) -> None:
    """Print texts one after another, nothing before the first token is there; those behind are written meanwhile."""
    show = _shown()
    for place, each in enumerate(going):
        head = show((BETWEEN if place else "") + each.prompt)
        try:
            for piece in each.pieces():
                write(head + show(piece))
                head = ""
        except KeyboardInterrupt:
            each.ticket.cancel()
            write(head + show(each.new_text() if each.done else "") + "\n")
            raise
        write(head + "\n")


def _picture(found: list[Completion], model: GPT, page: Path, asked: Asked, *, silent: bool) -> None:
    if not silent:
        print_probabilities(found)
    write_page(page, found, settings=asked.given(model.tokenizer))
    say(f"wrote {page}")


def _shown() -> Callable[[str], str]:
    """Return what makes a piece fit to print: on a terminal, a model's control characters are not obeyed."""
    return visible if sys.stdout.isatty() else str
