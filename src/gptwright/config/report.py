"""Turn validation errors into sentences: every problem with its path, value, rule, place and way out."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gptwright.config.fields import MISSING, Place, dotted, get, type_of

if TYPE_CHECKING:
    from gptwright.config.base import Config
    from gptwright.config.yaml import Source

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list, as in [a, b]",
    "tuple": "a list, as in [a, b]",
    "dict": "a mapping of keys to values",
    "mapping": "a mapping of keys to values",
    "model": "a mapping of settings, not a single value",
    "model_attributes": "a mapping of settings, not a single value",
    "dataclass": "a mapping of settings, not a single value",
    "path": "a file or folder name",
    "none_required": "empty (null)",
}
_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_LONGEST_VALUE = 80


def explain(
    error: ValidationError,
    root: type["Config"],
    *,
    data: Any = None,
    sources: "Mapping[str, Source] | None" = None,
) -> str:
    """Return every problem of ``error``, one a line, with a count on top when there are several.

    ``data`` is what was validated and ``sources`` tells, by dotted path, where each value was written.
    """
    wrong: dict[tuple[Any, ...], list[_Problem]] = {}
    for details in error.errors(include_url=False):
        problem = _Problem(details, root, data, sources or {})
        wrong.setdefault((problem.path, problem.on_key), []).append(problem)
    lines = [line for problems in wrong.values() for line in _together(problems)]
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} settings are wrong:", *(f"  {line}" for line in lines)])


class _Problem:
    """One error, laid over the data: which path it is about, and what may stand there."""

    def __init__(self, details: ErrorDetails, root: type[BaseModel], data: Any, sources: Mapping[str, Any]):
        self.details = details
        self.kind = details["type"]
        self.given = details["input"]
        self.sources = sources
        self.on_key = details["loc"][-1:] == ("[key]",)
        self.place: Place | None = Place(root)
        self.parent: Place | None = None
        self.holder: Any = MISSING
        self.path: tuple[Any, ...] = ()
        self._follow(details["loc"], MISSING if data is None else data)

    def _follow(self, loc: tuple[Any, ...], value: Any) -> None:
        # pydantic mixes the names of union members into the path: only what the data or the settings
        # class know is part of the path that the user wrote
        blind = value is MISSING
        for index, key in enumerate(loc):
            inner = get(value, key)
            child = self.place.child(key, value) if self.place else None
            last_missing = self.kind == "missing" and index == len(loc) - 1
            if inner is MISSING and child is None and not last_missing and not (blind and _is_word(key)):
                continue
            self.parent, self.holder = self.place, value
            self.path, self.place, value = (*self.path, key), child, inner

    def where(self) -> str:
        """Return the place in parentheses; of the nearest thing around it where the key itself has none."""
        for length in range(len(self.path), 0, -1):
            source = self.sources.get(dotted(self.path[:length]))
            if source is not None:
                outer = "" if length == len(self.path) else f"{dotted(self.path[:length])} is at "
                return f" ({outer}{source})"
        return ""

    def name(self) -> str:
        path = dotted(self.path)
        return f"a key of {path}" if self.on_key else path

    def rule(self) -> str:
        """Return what the value must be, in words that follow 'must be'."""
        ctx = self.details.get("ctx", {})
        kind = self.kind.removesuffix("_type").removesuffix("_parsing")
        if self.kind in _LIMITS:
            words, key = _LIMITS[self.kind]
            return f"{words} {ctx[key]}"
        if kind in _TYPES:
            return _TYPES[kind]
        if self.kind == "literal_error" or self.kind == "enum":
            choices = str(ctx.get("expected", "")).split(" or ")
            return f"{'one of ' if len(choices) > 1 or ',' in choices[0] else ''}{', '.join(choices)}"
        if self.kind == "int_from_float":
            return "a whole number"
        if self.kind == "finite_number":
            return "a finite number, not infinity or nan"
        if self.kind in ("too_short", "too_long"):
            size = f"at least {ctx['min_length']}" if "min_length" in ctx else f"at most {ctx['max_length']}"
            return f"a list of {size} values"
        return ""

    def sentence(self) -> str:
        """Return what is wrong, without the path and the place."""
        message = re.sub(r"^(Value error|Assertion failed), ", "", self.details["msg"])
        if self.kind == "missing":
            return f"missing; give it a value{self._meaning()}"
        if self.kind == "extra_forbidden":
            return self._unknown_key()
        if self.rule():
            return f"must be {self.rule()}, but is {_shown(self.given)}{_remedy(self.kind, self.given)}"
        if message.startswith("Input should "):
            return f"must {message.removeprefix('Input should ')}, but is {_shown(self.given)}"
        return message

    def _meaning(self) -> str:
        described = self.place.info.description if self.place and self.place.info else None
        return f" ({' '.join(described.split()).rstrip('.')})" if described else ""

    def _unknown_key(self) -> str:
        settings = self.parent.settings(self.holder) if self.parent else None
        known = list(settings.model_fields) if settings else []
        key = str(self.path[-1]) if self.path else ""
        if "." in key:
            return "unknown key; in a file, write the parts one inside the other, as in 'model: {d_model: 384}'"
        name = self._component()
        if settings and key in getattr(settings, "WITHOUT", {}):
            return settings.WITHOUT[key].format(type=name)  # pyright: ignore[reportAttributeAccessIssue]
        if others := self._others_with(key):
            return f"unknown key of '{name}': it is a setting of {others}; choose that type, or leave '{key}' out"
        owner = f" of '{name}'" if name else ""
        return f"unknown key{owner}{did_you_mean(key, known) or _known(known)}"

    def _others_with(self, key: str) -> str:
        """Return the components of the same slot that know ``key``."""
        slot = self.parent.slot() if self.parent else None
        menu = {name: slot.resolve(name) for name in slot.names()} if slot else {}
        return " and ".join(f"'{name}'" for name, part in menu.items() if key in part.Config.model_fields)

    def _component(self) -> str | None:
        if self.parent is None or self.parent.slot() is None:
            return None
        return type_of(self.holder) or self.parent.default_type()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known word that is nearest, or nothing."""
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), list(by_lower), n=1)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def _together(problems: list[_Problem]) -> list[str]:
    """Return one line for the members of a union that all refused the same value, else a line each."""
    rules = list(dict.fromkeys(problem.rule() for problem in problems))
    first = problems[0]
    if len(problems) > 1 and all(rules):
        sentences = [f"must be {' or '.join(rules)}, but is {_shown(first.given)}"]
    else:
        sentences = list(dict.fromkeys(problem.sentence() for problem in problems))
    start = f"{first.name()}: " if first.path else ""
    return [f"{start}{sentence}{first.where()}" for sentence in sentences]


def _remedy(kind: str, given: Any) -> str:
    """Return how to write the value, where it is clear what was meant."""
    if kind == "string_type" and isinstance(given, bool | int | float):
        return "; put it in quotes"
    if kind in ("int_type", "int_from_float") and isinstance(given, float) and given.is_integer():
        return f"; write {int(given)}"
    if kind in ("int_type", "float_type") and isinstance(given, str) and re.fullmatch(r"[-+]?\d+(\.\d+)?", given):
        return "; leave out the quotes"
    return ""


def _known(names: list[str]) -> str:
    return f" (known: {', '.join(sorted(names))})" if names else ""


def _shown(value: Any) -> str:
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return str(value).lower()
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_VALUE else shown[: _LONGEST_VALUE - 3] + "..."


def _is_word(key: Any) -> bool:
    return isinstance(key, int) or re.fullmatch(r"\w+", str(key)) is not None
