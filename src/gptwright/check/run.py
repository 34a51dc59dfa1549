"""Hold every law against a component, and say what was found."""

import json
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from gptwright.check.decoding import steps_equal_full
from gptwright.check.forward import packing_changes_nothing
from gptwright.check.laws import LAWS, Law
from gptwright.check.measure import Broken
from gptwright.check.subject import Subject, company, subjects
from gptwright.errors import ConfigError
from gptwright.model.gpt import GPT

Outcome = Literal["kept", "broken", "open"]
"""`open`: not judged, since a law that it rests on is broken."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """What one law says about one component."""

    law: str
    promise: str
    outcome: Outcome
    words: str = ""
    """The figures of a broken law; a note about a kept one."""
    settings: str = ""
    """Of the component that broke it."""
    error: BaseException | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Report:
    """What all laws say about a component with each of its settings."""

    name: str
    kind: str
    examples: list[dict[str, Any]]
    d_model: int
    verdicts: list[Verdict]
    """One a law: that of the first settings that break it."""
    seconds: float

    @property
    def broken(self) -> list[Verdict]:
        """The laws that do not hold."""
        return [verdict for verdict in self.verdicts if verdict.outcome == "broken"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        told = ("law", "promise", "outcome", "words", "settings")
        return {
            "component": self.name,
            "slot": self.kind,
            "kept": not self.broken,
            "d_model": self.d_model,
            "examples": self.examples,
            "laws": [{key: getattr(verdict, key) for key in told} for verdict in self.verdicts],
            "seconds": round(self.seconds, 2),
        }


def check(
    name: str,
    settings: Mapping[str, Any] | None = None,
    around: Mapping[str, Any] | None = None,
    tell: Tell = lambda law: None,
) -> Report:
    """Hold every law against the component ``name``, with its settings given or else with each of its examples.

    Args:
        name: `pkg.module:Class`, `file.py:Class` or the name of one that comes with gptwright.
        settings: of the component.
        around: settings of the small model that is built around it.
        tell: called with the name of each law before it is held.

    Raises:
        GptwrightError: there is no such component, or settings are missing or wrong.
    """
    start = time.perf_counter()
    by_law: dict[str, list[Verdict]] = {}
    with torch.random.fork_rng(devices=[]), _one_thread():
        found = subjects(name, settings or {}, around or {})
        for subject in found:
            for verdict in judge(subject, tell):
                by_law.setdefault(verdict.law, []).append(verdict)
    return Report(
        name=found[0].settings["type"],
        kind=found[0].kind,
        examples=[{key: value for key, value in each.settings.items() if key != "type"} for each in found],
        d_model=found[0].around["d_model"],
        verdicts=[_worst(each) for each in by_law.values()],
        seconds=time.perf_counter() - start,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny models gain nothing from several threads, and lose much where others want the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def judge(subject: Subject, tell: Tell = lambda law: None, laws: Iterable[Law] = LAWS) -> Iterator[Verdict]:
    """Yield what each law says about a component; one that rests on a broken law is left open."""
    unsound: set[str] = set()
    for law in (*laws, _beside_other_parts(subject)):
        tell(law.name)
        base = [other for other in law.rests_on if other in unsound]
        if base:
            verdict = Verdict(law.name, law.promise, "open", f"rests on: {', '.join(base)}", subject.said)
        else:
            verdict = _held(law, subject)
        if verdict.outcome != "kept":
            unsound.add(law.name)
        yield verdict


def _held(law: Law, subject: Subject) -> Verdict:
    try:
        words = law.holds(subject.build())
    except Broken as error:
        return Verdict(law.name, law.promise, "broken", str(error), subject.said, error)
    except Exception as error:
        return Verdict(law.name, law.promise, "broken", raised(error, subject), subject.said, error)
    return Verdict(law.name, law.promise, "kept", words or "")


def _beside_other_parts(subject: Subject) -> Law:
    laws = (steps_equal_full, packing_changes_nothing)

    def works_beside_other_parts(_: GPT) -> None:
        """The same with other wirings, norms, positions and feed-forwards, and between layers of another attention."""
        for around in company(subject):
            try:
                for law in laws:
                    law(subject.build(**around))
            except ConfigError:  # the component refuses this company, with its reason
                continue
            except Exception as error:
                said = str(error) if isinstance(error, Broken) else raised(error, subject)
                raise Broken(f"with {json.dumps(around)}: {said}") from error

    return Law(works_beside_other_parts, laws)


def raised(error: Exception, subject: Subject) -> str:
    """Return an exception in one sentence, with the line of the component's own file that it comes from."""
    message = " ".join(str(error).partition("\n")[0].split())
    line = _line_in_graph(str(error)) or _line_in_file(error, subject)
    return f"{type(error).__name__}: {message}{f' ({line})' if line else ''}"


def _line_in_graph(message: str) -> str:
    """Return the line that torch.compile could not trace, which it names in its message alone."""
    _, found, code = message.partition("from user code")
    lines = re.findall(r'File "(.+?)", line (\d+)', code) if found else []
    return f"{Path(lines[-1][0]).name}:{lines[-1][1]}" if lines else ""


def _line_in_file(error: Exception, subject: Subject) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == subject.file]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _worst(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict to report of those of several settings."""
    order = ("broken", "open", "kept")
    worst = min(verdicts, key=lambda verdict: order.index(verdict.outcome))
    if worst.outcome == "kept":
        notes = dict.fromkeys(verdict.words for verdict in verdicts if verdict.words)
        return replace(worst, words="; ".join(notes))
    return worst
