"""Prompts, from wherever they were asked to come: the command line, stdin, a text, or a file of many."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptwright.errors import DataError, GptwrightError

OURS = ("index", "completion", "samples", "finish_reason", "prompt_tokens", "new_tokens", "tokens", "settings")
"""Fields of an answer, which a line of prompts cannot have."""


@dataclass(frozen=True)
class Line:
    """A prompt of a file of many."""

    index: int
    """Its place among the prompts, from 0; blank lines do not count."""
    number: int
    """Its line in the file, from 1."""
    prompt: str
    sampling: dict[str, Any] = field(default_factory=dict)
    """Sampling settings of its own."""
    others: dict[str, Any] = field(default_factory=dict)
    """What else its line says; it is handed on."""

    def told(self) -> dict[str, Any]:
        """Return what an answer repeats of it."""
        own = {"sampling": self.sampling} if self.sampling else {}
        return {"index": self.index, "prompt": self.prompt, **own, **self.others}


def read_prompts(prompts: Sequence[str] | None, file: Path | None) -> list[str]:
    """Return the prompts to continue; one that is empty where none is given."""
    if prompts and file is not None:
        raise GptwrightError("--prompt and --prompt-file were both given; give one of the two")
    if file is not None:
        return [decoded(*_read(file))]
    if prompts and list(prompts).count("-") > 1:
        raise GptwrightError("--prompt - was given twice, and stdin can be read once; give it once")
    return [decoded(*_read(None)) if prompt == "-" else prompt for prompt in prompts or [""]]


def read_lines(file: Path) -> list[Line]:
    """Return the prompts of a ``.jsonl`` file (an object a line) or a ``.txt`` file (a prompt a line).

    Raises:
        DataError: it cannot be read, or a line is not what it must be; the message names the line.
    """
    if file.suffix not in (".jsonl", ".txt"):
        raise DataError(f"{file} ends in '{file.suffix}', and prompts come from a .jsonl or a .txt file; rename it")
    text = decoded(*_read(file))
    numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise DataError(f"{file} holds no prompt; write one a line")
    if file.suffix == ".txt":
        return [Line(index, number, line) for index, (number, line) in enumerate(numbered)]
    return [_line(file, index, number, line) for index, (number, line) in enumerate(numbered)]


def decoded(name: str, raw: bytes) -> str:
    """Return ``raw`` as text, or say where it is none."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the prompt in {name} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; save it as UTF-8"
        ) from None


def _line(file: Path, index: int, number: int, text: str) -> Line:
    where = f"{file}, line {number}"
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise DataError(f'{where} is no object with a text "prompt"; write {{"prompt": "..."}}')
    taken = [name for name in OURS if name in found]
    if taken:
        raise DataError(f"{where} has a field '{taken[0]}', which the answer needs for itself; rename it")
    sampling = found.pop("sampling", {})
    if not isinstance(sampling, dict):
        raise DataError(f'{where}: sampling is {sampling!r}, but must be an object, as in {{"temperature": 0.5}}')
    return Line(index, number, found.pop("prompt"), sampling, found)


def _read(file: Path | None) -> tuple[str, bytes]:
    if file is None or str(file) == "-":
        return "stdin", sys.stdin.buffer.read()
    try:
        return str(file), file.read_bytes()
    except OSError as error:
        raise DataError(f"the prompt file {file} cannot be read: {error.strerror}; give one that can") from None
