"""Which parameters a pattern names.

People write `layers.0`, `attention`, `q_proj` or `*.norm*`; parameters are called `layers.0.attention.q_proj.weight`.
A pattern (`*`, `?`, `[...]` as in a shell) names a parameter when it matches its whole name, or any run of whole
words between its dots: `layers.1` is not `layers.10`, and `attention` is not `attention_norm`. A number alone could
be a layer or an expert, so it names nothing.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from gptwright.errors import ConfigError

_WRAPPERS = ("_orig_mod.", "module.")  # torch.compile and DistributedDataParallel put their own word in front


def bare(name: str) -> str:
    """Return a parameter's name without what a wrapper put before it."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def named_by(pattern: str, names: Iterable[str], *, what: str) -> list[str]:
    """Return those of ``names`` that ``pattern`` matches.

    Args:
        pattern: as above.
        names: names of parameters.
        what: where the pattern was written, for the error.

    Raises:
        ConfigError: it matches none.
    """
    names = list(names)
    found = [name for name in names if matches(pattern, bare(name))]
    if not found:
        raise ConfigError(
            f"{what} names '{pattern}', which matches no parameter; names look like '{_sample(names)}'"
            f"{_hint(pattern, names)}"
        )
    return found


def matches(pattern: str, name: str) -> bool:
    """Say whether ``pattern`` matches the whole of ``name``, or a run of whole words in it."""
    if pattern.isdigit():
        return False
    return any(fnmatchcase(name, shape) for shape in (pattern, f"{pattern}.*", f"*.{pattern}", f"*.{pattern}.*"))


def _sample(names: list[str]) -> str:
    """Return a name that shows all that a name has: the longest kind of the first layer's."""
    deep = (name for name in names if name.startswith("layers.") and name.count(".") >= 4)
    return next(deep, names[-1] if names else "none")


def _hint(pattern: str, names: list[str]) -> str:
    if pattern.isdigit():
        return f"; did you mean 'layers.{pattern}'?"
    core = pattern.strip("*.")
    close = get_close_matches(core, _known(names), n=1) if core else []
    return f"; did you mean '{pattern.replace(core, close[0])}'?" if close else ""


def _known(names: list[str]) -> list[str]:
    """Return what people might have meant: names, modules, and single words of names."""
    known: dict[str, None] = {}
    for name in names:
        words = bare(name).split(".")
        known |= dict.fromkeys([".".join(words[:end]) for end in range(len(words), 0, -1)])
        known |= dict.fromkeys(word for word in words if not word.isdigit())
    return list(known)
