"""YAML 1.2 in and out: plain Python values that remember the line they stand on.

The rules are those of the YAML 1.2 core schema: ``1e-3`` is a number, ``on`` and ``2024-01-01`` are text.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as YamlNode
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from gptwright.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_MAX_NODES = 100_000  # aliases of aliases can make a few lines stand for billions of values


@dataclass(frozen=True)
class Source:
    """Where a value was written: a line of a file, or an argument of the command line."""

    name: str
    """The file as the user named it, or the whole argument (`command line 'model.d_model=3'`)."""
    line: int | None = None
    """The line in that file, counted from 1."""

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Node:
    """A value and its place; a mapping or a list holds further nodes."""

    value: Any
    source: Source

    def plain(self) -> Any:
        """Return the value as plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], "Node"]]:
        """Yield ``(path, node)`` for this node and everything in it; list items count from 0."""
        yield path, self
        items = self.value
        if isinstance(items, list):
            items = dict(enumerate(items))
        if isinstance(items, dict):
            for key, child in items.items():
                yield from child.walk((*path, str(key)))


def parse(text: str, source: Source) -> Node | None:
    """Read one YAML document; None when it holds nothing at all.

    A ``source`` without a line stands for a file, whose lines are then counted; one that is an argument
    keeps its own name for every value.

    Raises:
        ConfigError: the text is not YAML, repeats a key, or uses a tag that would build an object.
    """
    try:
        root = YAML(typ="rt").compose(io.StringIO(text))
        return None if root is None else _Reader(source).read(root)
    except YAMLError as error:
        raise ConfigError(_syntax_sentence(error, source)) from None
    except RecursionError:
        raise ConfigError(f"{source}: the settings are nested too deeply to be read") from None


class _Reader:
    """Turns the composed nodes of one document into `Node`s."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.open: list[YamlNode] = []
        self.count = 0

    def read(self, node: YamlNode) -> Node:
        place = self.place(node)
        self.count += 1
        if self.count > _MAX_NODES:
            raise ConfigError(f"{place}: more than {_MAX_NODES} values; settings are never this large")
        if any(node is outer for outer in self.open):
            raise ConfigError(f"{place}: the alias refers to a value that contains itself")
        self.open.append(node)
        value = self.content(node, place)
        self.open.pop()
        return Node(value, place)

    def place(self, node: YamlNode) -> Source:
        if self.source.name.startswith("command line"):
            return self.source
        return Source(self.source.name, node.start_mark.line + 1)

    def content(self, node: YamlNode, place: Source) -> Any:
        if isinstance(node, ScalarNode):
            return _scalar(node, place)
        if not str(node.tag).startswith(_TAG) or str(node.tag).removeprefix(_TAG) not in ("map", "seq"):
            raise ConfigError(f"{place}: the tag {_shown_tag(node)} is not used in settings; remove it")
        if isinstance(node, SequenceNode):
            return [self.read(item) for item in node.value]
        assert isinstance(node, MappingNode)
        return self.mapping(node)

    def mapping(self, node: MappingNode) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node)
            key = self.key(key_node, place)
            if key in found:
                first = found[key].source
                raise ConfigError(f"{place}: the key '{key}' is written twice (first at {first}); keep one")
            child = self.read(value_node)
            found[key] = Node(child.value, place)  # the line of the key is where a reader looks
        return found

    def key(self, node: YamlNode, place: Source) -> str:
        if isinstance(node, ScalarNode) and node.tag == f"{_TAG}merge":
            raise ConfigError(f"{place}: YAML 1.2 has no merge key '<<'; use 'extends: other.yaml' instead")
        if not isinstance(node, ScalarNode) or node.value == "":
            raise ConfigError(f"{place}: a key must be a word, as in 'd_model: 384'")
        return str(node.value)


def _scalar(node: ScalarNode, place: Source) -> Any:
    tag, text = str(node.tag).removeprefix(_TAG), str(node.value)
    if tag in ("str", "timestamp", "value", "merge"):  # YAML 1.2 knows no dates
        return text
    if tag == "null":
        return None
    try:
        if tag == "bool":
            return {"true": True, "false": False}[text.lower()]
        if tag == "int":
            return _integer(text)
        if tag == "float":
            return _float(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{place}: {_short(text)} cannot be read as {tag}") from None
    raise ConfigError(f"{place}: the tag {_shown_tag(node)} is not used in settings; remove it")


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2].lower(), 10)
    return int(digits, base)


def _float(text: str) -> float:
    digits = text.replace("_", "").lower()
    return float(digits.replace(".inf", "inf").replace(".nan", "nan"))


def _shown_tag(node: YamlNode) -> str:
    return "!!" + str(node.tag).removeprefix(_TAG) if str(node.tag).startswith(_TAG) else str(node.tag)


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else repr(text[:57] + "...")


def _syntax_sentence(error: YAMLError, source: Source) -> str:
    if source.name.startswith("command line"):
        return f"{source}: the part after '=' is not valid YAML; put quotes inside: key='\"text\"'"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{source.name}:{mark.line + 1}" if mark else source.name
    problem = getattr(error, "problem", None) if isinstance(error, MarkedYAMLError) else None
    if "'\\t'" in str(problem):
        return f"{where}: a tab stands where YAML allows only spaces; indent with spaces"
    if not isinstance(error, MarkedYAMLError):
        return f"{where}: not valid YAML: {' '.join(str(error).split())}"
    detail = " ".join(str(part) for part in (error.context, problem) if part)
    column = f", column {mark.column + 1}" if mark else ""
    return f"{where}{column}: not valid YAML: {detail}"


def dump(data: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> str:
    """Write plain data as YAML that `parse` reads back to the same values.

    ``notes`` maps dotted paths to a remark that is put at the end of that line.
    """
    writer = YAML(typ="rt")
    writer.width = 1_000_000  # one value a line, so that a remark stays with its value
    writer.representer.add_representer(type(None), _write_null)
    stream = io.StringIO()
    writer.dump(_commented(data, "", notes or {}), stream)
    return stream.getvalue()


def _write_null(representer: Any, value: None) -> Any:
    del value
    return representer.represent_scalar(f"{_TAG}null", "null")


def _commented(value: Any, path: str, notes: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        block = CommentedMap()
        for key, child in value.items():
            inner = f"{path}.{key}" if path else str(key)
            block[key] = _commented(child, inner, notes)
            if inner in notes:
                block.yaml_add_eol_comment(notes[inner], key, column=48)
        return block
    if isinstance(value, list | tuple):
        items = CommentedSeq(_commented(child, "", {}) for child in value)
        items.fa.set_flow_style()
        return items
    if isinstance(value, str) and not value.isprintable():
        return DoubleQuotedScalarString(value)  # the writer leaves some line breaks of Unicode bare
    return value
