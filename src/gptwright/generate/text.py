"""Text in, text out."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from gptwright.config.report import did_you_mean
from gptwright.errors import GptwrightError
from gptwright.generate.beam import beam_search
from gptwright.generate.completion import Completion
from gptwright.generate.engine import NEW_TOKENS
from gptwright.generate.sampling import Sampling
from gptwright.generate.writer import Continuation, How, Writer, encode_prompt, tokenizer_of
from gptwright.model.evaluating import evaluating
from gptwright.model.gpt import GPT

_HINTS = get_type_hints(Sampling)
_WITH_BEAMS = ("max_new_tokens", "ignore_end")
"""What beam search can be told; it draws nothing."""


def generate(
    model: GPT,
    prompts: str | Sequence[str],
    *,
    n: int = 1,
    details: bool = False,
    beams: int | None = None,
    length_penalty: float = 1.0,
    regex: str | None = None,
    json_schema: Mapping[str, Any] | str | None = None,
    speculate: str | int | None = None,
    draft: GPT | None = None,
    overflow: str = "refuse",
    rows: int = 16,
    **sampling: Any,
) -> Any:
    """Return ``prompts`` continued by ``model``, which `gptwright.load` returned.

    One prompt gives a string (the prompt and its continuation), a list of prompts a list of strings; with ``n`` above
    1 each string becomes a list of ``n``. An empty prompt begins a new document, if the tokenizer knows where one
    begins. With a ``seed`` a prompt has the same continuations alone or among others.

    Args:
        model: the model, with its tokenizer.
        prompts: a text, or several.
        n: continuations of each prompt.
        details: return a `Completion` in place of each string.
        beams: search for the likeliest text with so many beams, in place of drawing it.
        length_penalty: beam search divides scores by the length to this power.
        regex: a regular expression that each continuation matches.
        json_schema: a JSON schema that each continuation obeys.
        speculate: ``prompt`` guesses tokens from what was written already, a number that many at once; the text
            stays the same.
        draft: a smaller model, of the same tokenizer, that guesses tokens; the text stays the same.
        overflow: where positions end, ``refuse`` what has no room or ``slide`` on with the latest part.
        rows: texts that are written at the same time.
        **sampling: fields of `gptwright.generate.sampling.Sampling`: max_new_tokens, temperature, top_k, top_p,
            min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, min_new_tokens,
            stop_ids, stop, logprobs, seed, ignore_end.

    Raises:
        GptwrightError: the settings have no meaning, or a prompt does not fit.
    """
    texts = _texts(prompts)
    if n < 1:
        raise GptwrightError(f"n is {n} and must be at least 1")
    if beams is None and length_penalty != 1.0:
        raise GptwrightError(f"length_penalty is {length_penalty} and belongs to beam search; give beams too")
    drawn = read_sampling(sampling)
    how = How(overflow, min(rows, max(1, n * len(texts))), regex, json_schema, speculate, draft)  # pyright: ignore[reportArgumentType] - checked there
    with evaluating(model):
        if beams is None:
            groups = _draw(Writer(model, how), texts, drawn, n)
        else:
            _check_alone_with_beams(sampling, how)
            groups = [_search(model, text, drawn, beams, length_penalty, n) for text in texts]
    answers = [[found if details else found.full for found in group] for group in groups]
    flat = answers if n > 1 else [group[0] for group in answers]
    return flat[0] if isinstance(prompts, str) else flat


def stream(
    model: GPT,
    prompt: str,
    *,
    regex: str | None = None,
    json_schema: Mapping[str, Any] | str | None = None,
    speculate: str | int | None = None,
    draft: GPT | None = None,
    overflow: str = "refuse",
    **sampling: Any,
) -> Iterator[str]:
    """Return an iterator over the continuation of ``prompt``, in pieces of whole characters as they come.

    No piece holds any part of a stop string. Whoever has seen enough closes the iterator, or forgets it. The
    arguments are those of `generate`, and so are its errors, which come before the first piece.
    """
    if "beams" in sampling:
        raise GptwrightError(
            "beam search knows its text only at the end, and cannot stream; leave beams out, or use generate"
        )
    if not isinstance(prompt, str):
        raise GptwrightError(f"stream continues one prompt, a string, not {type(prompt).__name__}; see generate")
    drawn = read_sampling(sampling)
    how = How(overflow, 1, regex, json_schema, speculate, draft)  # pyright: ignore[reportArgumentType] - checked there
    with evaluating(model):
        continuation = Writer(model, how).submit(prompt, drawn)
    return _stream(model, continuation)


def read_sampling(given: Mapping[str, Any], base: Sampling | None = None) -> Sampling:
    """Return ``base`` with the fields ``given``; a lone stop string or stop id may stand without a list.

    Raises:
        GptwrightError: there is no such field, or a value is of the wrong kind.
    """
    values = {item.name: getattr(base, item.name) for item in fields(Sampling)} if base else {}
    for name, value in given.items():
        if name not in _HINTS:
            raise GptwrightError(f"there is no sampling setting '{name}'{did_you_mean(name, _HINTS)}")
        values[name] = _typed(name, value)
    return Sampling(**values)


def _typed(name: str, value: Any) -> Any:
    if name in ("stop", "stop_ids"):
        value = () if value is None else (value,) if isinstance(value, str | int) else tuple(value)
    elif hasattr(value, "item"):
        value = value.item()  # a number of numpy or torch
    try:
        return TypeAdapter(_HINTS[name]).validate_python(value, strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise GptwrightError(f"the sampling setting {name} is {value!r}: {reason}") from None


def _texts(prompts: str | Sequence[str]) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    for text in texts:
        if not isinstance(text, str):
            raise GptwrightError(f"a prompt is {text!r}, but must be a string; for token ids use model.generate")
    return texts


def _draw(writer: Writer, texts: list[str], sampling: Sampling, n: int) -> list[list[Completion]]:
    groups = [[writer.submit(text, sampling, sample=sample) for sample in range(n)] for text in texts]
    writer.run()
    return [[each.completion() for each in group] for group in groups]


def _search(model: GPT, prompt: str, sampling: Sampling, beams: int, length_penalty: float, n: int) -> list[Completion]:
    began, tokenizer, ids = time.perf_counter(), tokenizer_of(model), encode_prompt(model, prompt)
    limit = model.config.position.limit(model.config.context(0))
    room = NEW_TOKENS if limit is None else min(NEW_TOKENS, limit - len(ids))
    found = beam_search(
        model,
        ids,
        beams=beams,
        max_new_tokens=room if sampling.max_new_tokens is None else sampling.max_new_tokens,
        length_penalty=length_penalty,
        end_ids=[] if sampling.ignore_end else list(tokenizer.end_ids),
        n=n,
    )
    seconds = time.perf_counter() - began
    return [
        Completion(prompt, tokenizer.decode(beam.ids), list(beam.ids), beam.finish_reason, None, seconds, len(ids))
        for beam in found
    ]


def _stream(model: GPT, continuation: Continuation) -> Iterator[str]:
    with evaluating(model):
        yield from continuation.pieces()


def _check_alone_with_beams(sampling: Mapping[str, Any], how: How) -> None:
    """Refuse what beam search would have to ignore."""
    others = [name for name in sampling if name not in _WITH_BEAMS]
    others += [name for name in ("regex", "json_schema", "speculate", "draft") if getattr(how, name) is not None]
    others += ["overflow"] if how.overflow == "slide" else []
    if others:
        raise GptwrightError(
            f"beams looks for the likeliest text and knows nothing of {', '.join(others)}; leave one or the other out"
        )
    how.check()
