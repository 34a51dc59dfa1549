"""Answers to a file of prompts: a line each, written when it is finished, and kept when the work begins again."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from gptwright.cli.asked import Asked
from gptwright.cli.output import data_progress, say
from gptwright.cli.prompts import Line
from gptwright.errors import DataError, GptwrightError
from gptwright.generate.completion import Completion
from gptwright.generate.sampling import Sampling
from gptwright.generate.text import read_sampling
from gptwright.generate.writer import Continuation, Writer, encode_prompt
from gptwright.model.decode import check_room
from gptwright.model.gpt import GPT

_AHEAD = 4
"""Prompts on their way for each row that writes: enough that no row waits, few enough for memory."""
_PROBED = 64
"""Values of each weight that go into a model's fingerprint."""


@dataclass(frozen=True)
class Answered:
    """What came of a file of prompts."""

    lines: int
    """Answers in the file."""
    kept: int
    """Those that were there already."""
    new_tokens: int
    """Tokens added now."""


def answer(model: GPT, lines: list[Line], asked: Asked, source: Path, target: Path, *, quiet: bool) -> Answered:
    """Write an answer to each of ``lines`` into ``target``, and leave alone what is there from before.

    A prompt's text depends on the seed and on its index alone: it is the same after an interruption.

    Raises:
        GptwrightError: a prompt or its settings cannot be used, or ``target`` holds answers of another kind.
    """
    base = asked.draw(model.tokenizer)
    how = asked.writing(asked.samples * len(lines))
    samplings = [_checked(model, line, base, source, how.overflow) for line in lines]
    said = {**_said(asked, base), "model": fingerprint(model)}
    kept, seed = read_answers(target, lines, said, base.seed)
    said["seed"] = seed
    writer, tokens = Writer(model, how), 0
    todo = iter(line for line in lines if line.index not in kept)
    with _appending(target) as out, data_progress(quiet=quiet) as tell:
        tell("writing", len(kept), len(lines))
        for count, (line, found) in enumerate(_finished(writer, todo, samplings, seed, asked.samples), len(kept) + 1):
            out.write((json.dumps(_answer(line, found, said), ensure_ascii=False) + "\n").encode())
            out.flush()
            tokens += sum(len(each.ids) for each in found)
            tell("writing", count, len(lines))
    return Answered(len(lines), len(kept), tokens)


def read_answers(target: Path, lines: list[Line], said: Mapping[str, Any], seed: int | None) -> tuple[set[int], int]:
    """Return which prompts have an answer in ``target``, and the seed to go on with; a torn last line is cut off.

    Raises:
        DataError: it holds something else, or answers to other prompts or under other settings.
    """
    try:
        raw = target.read_bytes() if target.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole != raw:
            os.truncate(target, len(whole))
    except OSError as error:
        raise DataError(f"the answers {target} cannot be read: {error.strerror}; name another file") from None
    kept: set[int] = set()
    for number, text in enumerate(whole.splitlines(), 1):
        found = _parsed(target, number, text)
        _check_prompt(target, number, found, lines, kept)
        seed = found["settings"].get("seed") if seed is None else seed
        _check_settings(target, number, found["settings"], {**said, "seed": seed})
        kept.add(found["index"])
    return kept, secrets.randbits(32) if seed is None else seed


def fingerprint(model: GPT) -> str:
    """Return a short hash that other weights would not have."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        if isinstance(weight, Tensor):
            step = max(1, weight.numel() // _PROBED)
            digest.update(f"{name}{tuple(weight.shape)}{weight.flatten()[::step].tolist()}".encode())
    return digest.hexdigest()[:16]


def _checked(model: GPT, line: Line, base: Sampling, source: Path, overflow: Any) -> Sampling:
    """Return how a prompt is continued, and refuse it now if it cannot be."""
    try:
        sampling = read_sampling(line.sampling, base)
        sampling.check(model.config.require_vocab_size())
        ids = encode_prompt(model, line.prompt, overflow=overflow)
        if overflow == "refuse":
            check_room(model, len(ids), sampling.max_new_tokens or 0, overflow)
    except GptwrightError as error:
        raise DataError(f"{source}, line {line.number}: {error}") from None
    return sampling


def _finished(
    writer: Writer, todo: Iterator[Line], samplings: list[Sampling], seed: int, samples: int
) -> Iterator[tuple[Line, list[Completion]]]:
    """Yield prompts with their continuations as they become complete, in any order."""
    going: dict[int, tuple[Line, list[Continuation]]] = {}
    while True:
        while len(going) < _AHEAD * writer.how.rows and (line := next(todo, None)) is not None:
            going[line.index] = line, _submit(writer, line, samplings[line.index], seed, samples)
        if not going:
            return
        writer.step()
        ended = [index for index, (_, found) in going.items() if all(each.done for each in found)]
        for index in ended:
            line, found = going.pop(index)
            yield line, [each.completion() for each in found]


def _submit(writer: Writer, line: Line, sampling: Sampling, seed: int, samples: int) -> list[Continuation]:
    """Hand a prompt in: equal prompts of a file draw differently, unless a line has a seed of its own."""
    first = 0 if "seed" in line.sampling else line.index * samples
    seeded = sampling if "seed" in line.sampling else replace(sampling, seed=seed)
    return [writer.submit(line.prompt, seeded, sample=first + each) for each in range(samples)]


def _answer(line: Line, found: list[Completion], said: Mapping[str, Any]) -> dict[str, Any]:
    parts = [_part(each) for each in found]
    own = parts[0] if len(parts) == 1 else {"samples": parts}
    return {**line.told(), **own, "prompt_tokens": found[0].prompt_tokens, "settings": said}


def _part(found: Completion) -> dict[str, Any]:
    part = {"completion": found.text, "finish_reason": found.finish_reason, "new_tokens": len(found.ids)}
    return part if found.tokens is None else {**part, "tokens": [each.to_dict() for each in found.tokens]}


def _said(asked: Asked, base: Sampling) -> dict[str, Any]:
    """Return the settings that are not as they are by default, as JSON has them."""
    plain = Sampling()
    drawn = {item.name: getattr(base, item.name) for item in fields(Sampling) if item.name != "seed"}
    found = {name: value for name, value in drawn.items() if value != getattr(plain, name)}
    found |= {
        name: value for name in ("overflow", "regex", "json_schema") if (value := asked.how.get(name)) is not None
    }
    if asked.samples > 1:
        found["num_samples"] = asked.samples
    return json.loads(json.dumps(found))


def _parsed(target: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict) or "index" not in found:
        raise DataError(f"{target}, line {number} is no answer of ours; name another --out, or delete the file")
    return found


def _check_prompt(target: Path, number: int, found: dict[str, Any], lines: list[Line], kept: set[int]) -> None:
    index = found["index"]
    known = isinstance(index, int) and 0 <= index < len(lines)
    if not known or found.get("prompt") != lines[index].prompt or found.get("sampling", {}) != lines[index].sampling:
        raise DataError(
            f"{target}, line {number} answers prompt {index}, which is another one now; name another --out, or delete "
            "the file"
        )
    if index in kept:
        raise DataError(f"{target}, line {number} answers prompt {index} a second time; delete one of the two lines")


def _check_settings(target: Path, number: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted({*before, *now}):
        old, new = (json.dumps(each.get(name, "the default")) for each in (before, now))
        if old != new:
            raise DataError(
                f"{target}, line {number} was written with {name} {old} and now it is {new}; go on with the same "
                "settings, name another --out, or delete the file"
            )


@contextmanager
def _appending(target: Path) -> Iterator[BinaryIO]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as out:
            yield out
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror}; check its rights and the free space") from None
    except KeyboardInterrupt:
        say(f"what is finished is in {target}; the same command goes on with the rest")
        raise
