"""Load settings: defaults < ``extends`` chain < file < ``key=value``, each value with its source.

Setting the ``type`` of a component clears the keys that a lower source gave to the component it replaces,
and leaves a note about it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from gptwright.config.base import Config
from gptwright.config.fields import Place, dotted, type_of
from gptwright.config.report import explain
from gptwright.config.yaml import Node, Source, parse
from gptwright.errors import ConfigError

T = TypeVar("T", bound=Config)


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """Settings that have been read, and where they came from."""

    config: T
    data: dict[str, Any]
    """What the files and the command line say, merged; without the defaults."""
    sources: dict[str, Source]
    """By dotted path, the place of every value of ``data``, mappings included."""
    notes: list[str] = field(default_factory=list)
    """What merging did that the user may not expect."""


def load(
    root: type[T],
    path: str | Path | None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    search: Sequence[Path] = (),
    trust_code: bool = True,
    below: Callable[[Mapping[str, Any]], Sequence[Node]] | None = None,
) -> Resolved[T]:
    """Read the settings of a YAML file with everything it extends, then ``overrides``, as a ``root``.

    ``path`` is a file, or the bare name of one (without `.yaml`) in the ``search`` folders; None reads only
    the overrides. ``overrides`` are `model.d_model=384` strings whose values are YAML, or a mapping from
    dotted paths to values. ``below`` is given all that they say, merged, and returns layers that lie below it.

    Raises:
        ConfigError: a file cannot be read, or settings are wrong; with every problem and its place.
    """
    files = _Files(search)
    layers = [] if path is None else list(files.layers(files.find(str(path))))
    merge = _merged(root, [*layers, command_line(overrides)])
    if below is not None:
        merge = _merged(root, [*below(merge.tree.plain()), *layers, command_line(overrides)])
    data = merge.tree.plain()
    sources = {dotted(place): node.source for place, node in merge.tree.walk() if place}
    context = {"trust_code": trust_code, "folder": files.folders or None}
    try:
        config = root.model_validate(data, context=context)
    except ValidationError as error:
        lacks = any(problem["type"] == "missing" for problem in error.errors())
        notes = [f"note: {note}" for note in merge.notes] if lacks else []  # what was dropped may be what lacks
        raise ConfigError("\n".join([explain(error, root, data=data, sources=sources), *notes])) from None
    return Resolved(config, data, sources, merge.notes)


class _Files:
    """Finds and reads files of settings and those they extend."""

    def __init__(self, search: Sequence[Path]) -> None:
        self.search = search
        self.folders: list[str] = []

    def find(self, name: str, asking: Node | None = None) -> Path:
        """Return the file that ``name`` means, seen from the file that extends it."""
        start = Path(asking.source.name).parent if asking else Path()
        own = Path(os.path.normpath(start / os.path.expanduser(name)))
        presets = [folder / f"{name}.yaml" for folder in self.search if re.fullmatch(r"[\w.-]+", name)]
        beside = [own.with_name(own.name + ".yaml")] if asking and own.name else []
        for file in (own, *beside, *presets):
            if _is_file(file):
                return file
        raise ConfigError(self._not_found(name, own, asking))

    def _not_found(self, name: str, own: Path, asking: Node | None) -> str:
        start = f"{asking.source}: extends '{name}', but " if asking else ""
        if os.path.isdir(own):  # unlike Path.is_dir, it takes a name of any length
            return f"{start}'{own}' is a folder; name a YAML file"
        if asking is None and "=" in name:
            return f"'{name}' is a setting; name the file or preset first, then the settings"
        known = sorted(file.stem for folder in self.search for file in folder.glob("*.yaml"))
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        presets = f" (presets: {', '.join(known)})" if known else ""
        return f"{start}there is no file '{own}'{' and no preset of that name' if known else ''}{hint}{presets}"

    def layers(self, file: Path, chain: tuple[Path, ...] = ()) -> Iterator[Node]:
        """Yield the trees of everything that ``file`` extends, lowest first, and its own."""
        tree = _read(file)
        folder = str(file.parent)
        if folder not in self.folders and file.parent not in self.search:
            self.folders.append(folder)
        bases = tree.value.pop("extends", None)
        chain = (*chain, file.resolve())
        for base in _extended(bases):
            below = self.find(base.value, base)
            if below.resolve() in chain:
                way = " -> ".join(link.name for link in (*chain, below))
                raise ConfigError(f"{base.source}: files extend each other in a circle: {way}")
            yield from self.layers(below, chain)
        yield tree
        self.folders.sort(key=lambda known: known != folder)  # the user's own file comes first


def _is_file(file: Path) -> bool:
    try:
        return file.exists() and not file.is_dir()  # a pipe is as good as a file
    except OSError:  # such as a name that is too long
        return False


def _extended(bases: Node | None) -> list[Node]:
    if bases is None:
        return []
    names = bases.value if isinstance(bases.value, list) else [bases]
    if not all(isinstance(name.value, str) and name.value for name in names):
        given = bases.plain()
        raise ConfigError(f"{bases.source}: extends must be a file name or a list of them, but is {given!r}")
    return names


def _read(file: Path) -> Node:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"'{file}' cannot be read: {os.strerror(error.errno or 0)}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{file}:{line}: byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8 text; save the file as UTF-8"
        ) from None
    tree = parse(text, Source(str(file)))
    if tree is None or tree.value is None:
        raise ConfigError(f"'{file}' is empty; it must hold settings, as in 'model: {{d_model: 384}}'")
    if not isinstance(tree.value, dict):
        raise ConfigError(
            f"{tree.source}: the file must hold a mapping of keys to values, as in 'model: {{d_model: 384}}', "
            f"but holds {_kind(tree.value)}"
        )
    return tree


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the single value {value!r:.60}"


def command_line(overrides: Sequence[str] | Mapping[str, Any]) -> Node:
    """Return the tree of the overrides: one layer, in which a later one wins.

    Raises:
        ConfigError: an argument is not of the form key=value.
    """
    merged = _Merge(None)
    if isinstance(overrides, str):
        overrides = [overrides]
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            source = Source(f"argument {{{key!r}: {value!r:.60}}}")
            merged.add(_nested(str(key), _node(value, source)))
    else:
        for argument in overrides:
            merged.add(_override(argument))
    return merged.tree


def _override(argument: str) -> Node:
    key, equals, text = argument.partition("=")
    if argument.startswith("-"):
        bare = argument.lstrip("-")
        example = bare if "=" in bare else f"{bare or 'model.d_model'}=VALUE"
        raise ConfigError(f"'{argument}' is not an option here; settings have no dashes: write {example}")
    if not equals:
        raise ConfigError(f"'{argument}' has no value; write a setting as {argument or 'key'}=VALUE")
    if not all(part.strip() == part != "" for part in key.split(".")):
        raise ConfigError(f"'{argument}': '{key}' is not a key; write words joined by dots, as in model.d_model=384")
    if key == "extends":
        raise ConfigError(f"'{argument}': extends belongs in a file; name that file as CONFIG instead")
    source = Source(f"command line '{argument}'")
    value = parse(text, source)
    return _nested(key, value or Node(None, source))


def _nested(key: str, node: Node) -> Node:
    for part in reversed(key.split(".")):
        node = Node({part: node}, node.source)
    return node


def _node(value: Any, source: Source) -> Node:
    if isinstance(value, Mapping):
        return Node({str(key): _node(child, source) for key, child in value.items()}, source)
    if isinstance(value, list | tuple):
        return Node([_node(child, source) for child in value], source)
    return Node(value, source)


def _merged(root: type[Config], layers: Sequence[Node]) -> "_Merge":
    merge = _Merge(root)
    for layer in layers:
        merge.add(layer)
    return merge


class _Merge:
    """Lays one tree over another; ``root`` None is one source, in which changing a type clears nothing."""

    def __init__(self, root: type[Config] | None) -> None:
        self.root = root
        self.tree = Node({}, Source("default"))
        self.notes: list[str] = []

    def add(self, upper: Node) -> None:
        place = Place(self.root) if self.root else None
        self.tree = self._over(self.tree, upper, (), place)

    def _over(self, lower: Node, upper: Node, path: tuple[str, ...], place: Place | None) -> Node:
        below, above = self._as_component(lower, place), self._as_component(upper, place)
        both_names = isinstance(lower.value, str) and isinstance(upper.value, str)
        if both_names or not (isinstance(below.value, dict) and isinstance(above.value, dict)):
            return upper
        if self._replaces(below, above, place):
            self._note(below, above, path)
            return above
        merged = dict(below.value)
        for key, child in above.value.items():
            inner = place.child(key, {**below.plain(), **above.plain()}) if place else None
            merged[key] = self._over(merged[key], child, (*path, key), inner) if key in merged else child
        # an argument of the command line sets one value; it is not the place of all that stands around it
        return Node(merged, lower.source if upper.source.line is None and lower.value else upper.source)

    def _as_component(self, node: Node, place: Place | None) -> Node:
        """Return ``norm: rms_norm`` as ``norm: {type: rms_norm}``, wherever a component may stand."""
        may_be = place is None or place.slot() is not None
        if isinstance(node.value, str) and may_be:
            return Node({"type": node}, node.source)
        return node

    def _replaces(self, below: Node, above: Node, place: Place | None) -> bool:
        new = type_of(above.plain())
        default = place.default_type() if place and place.slot() else None
        old = type_of(below.plain()) or default
        return self.root is not None and None not in (old, new) and old != new

    def _note(self, below: Node, above: Node, path: tuple[str, ...]) -> None:
        cleared = [f"{key} ({node.source})" for key, node in below.value.items() if key != "type"]
        if cleared:
            new = above.value["type"]
            name = dotted(path)
            self.notes.append(
                f"{name}.type is now '{new.value}' ({new.source}), which drops what was set for the "
                f"component before it: {', '.join(cleared)}"
            )
