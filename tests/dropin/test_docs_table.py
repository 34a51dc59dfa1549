"""Every row of docs/drop-ins.md says what does the thing, and that thing exists; every block of Python there runs."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from gptwright.cli.main import VERBS
from gptwright.config.fields import Place
from gptwright.config.yaml import Source, parse
from gptwright.dropin.l1 import SIZES, L1Config
from gptwright.errors import GptwrightError
from gptwright.model import PRESETS
from gptwright.train.config import RunConfig
from gptwright.train.settings import read_settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "drop-ins.md").read_text("utf-8")
DESIGNS = ("gpt1", "modular", "gpt124m", "slm", "l1")
HEADER = "| what it says | what does it | remark |"
GENERATED = "reference/"
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)]+)\)")
_BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n+)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.DOTALL)


def rows(page):
    """Yield (design, what it says, what does it, remark) of each row of each table."""
    for part in re.split(r"^### Line by line: ", page, flags=re.MULTILINE)[1:]:
        design, _, rest = part.partition("\n")
        lines = rest.partition(HEADER + "\n|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
        for line in lines:
            yield (design, *(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]))


ROWS = list(rows(PAGE))


def resolve(reference):
    """Fail unless ``reference`` exists: a dotted name, a command, or a setting, maybe with a value."""
    if reference.startswith("gptwright "):
        _command(*reference.split()[1:])
    elif reference.startswith("gptwright."):
        _name(reference)
    else:
        _setting(*reference.partition(": "))


def _command(verb, *arguments):
    assert verb in VERBS, verb
    for argument in arguments if verb in ("count", "train") else ():
        assert (PRESETS / f"{argument}.yaml").is_file(), argument


def _name(dotted):
    words = dotted.split(".")
    for end in range(len(words), 0, -1):
        try:
            found = import_module(".".join(words[:end]))
        except ModuleNotFoundError:
            continue
        for word in words[end:]:
            found = getattr(found, word)
        return
    raise AssertionError(dotted)


def _setting(path, says, value):
    if says:
        base = ["data.source=book.txt", "data.tokenizer.type=byte"]
        read = read_settings("tiny", [*base, f"{path}={value}"]).config
        for word in path.split("."):
            read = getattr(read, word)
        assert _agrees(read, parse(value, Source("a document")).plain()), f"{path} is {read}"
        return
    place = Place(RunConfig)
    for word in path.split("."):
        place = next((inner for inner in _children(place, word) if inner is not None), None)
        assert place is not None, path


def _children(place, word):
    slot = place.slot()
    holders = slot.components().values() if slot else ()
    yield from (Place.of(part.Config.model_fields[word]) for part in holders if word in part.Config.model_fields)
    yield None if slot else place.child(word, {})


def _agrees(read, wanted):
    """Say whether what was read is what was written, a component's name standing for its settings."""
    if isinstance(wanted, dict):
        return all(
            _agrees(getattr(read, key) if hasattr(read, key) else read[key], value) for key, value in wanted.items()
        )
    plain = getattr(read, "type", getattr(read, "strategy", read))
    return plain == wanted


def link(target):
    """Fail unless a page exists, and the heading in it."""
    name, _, heading = target.partition("#")
    if name.startswith("https://"):
        return
    if name.startswith(GENERATED):
        assert f"{name}" in (DOCS.parent / "mkdocs.yml").read_text("utf-8")
        return
    text = (DOCS / name).read_text("utf-8") if name else PAGE
    slugs = {
        re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    assert not heading or heading in slugs, target


def test_every_design_has_its_table():
    assert tuple(dict.fromkeys(row[0] for row in ROWS)) == DESIGNS
    assert all(len(row) == 4 for row in ROWS)
    assert len(ROWS) > 200


@pytest.mark.parametrize("design", DESIGNS)
def test_every_row_names_what_exists(design):
    for _, says, does, remark in (row for row in ROWS if row[0] == design):
        spans, links = _SPAN.findall(does), _LINK.findall(does)
        assert spans or links, says
        for reference in spans:
            resolve(reference)
        for target in [*links, *_LINK.findall(remark)]:
            link(target)


@pytest.mark.parametrize(
    "reference",
    [
        "gptwright.dropin.gpt1.GTP",
        "gptwright.dropin.gpt2",
        "gptwright fly",
        "gptwright count enormous",
        "model.wirings",
        "model.attention.n_hats",
        "model.wiring: sideways",
        "model.feed_forward: {type: moe, n_experts: 2, top_k: 3}",
    ],
)
def test_what_does_not_exist_is_noticed(reference):
    with pytest.raises((AssertionError, AttributeError, GptwrightError)):
        resolve(reference)


@pytest.mark.parametrize("target", ["nowhere.md", "#nowhere", "own-component.md#nowhere"])
def test_a_link_to_nowhere_is_noticed(target):
    with pytest.raises((AssertionError, FileNotFoundError)):
        link(target)


def test_every_link_of_the_page_leads_somewhere():
    for target in _LINK.findall(PAGE):
        link(target)


def test_every_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 400)
    names = {"__name__": "notebook"}
    for block in _BLOCK.finditer(PAGE):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"])
        elif block["kind"] == "python":
            exec(compile(block["text"], "drop-ins.md", "exec"), names)
    sys.modules.pop("my_module", None)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_as_counted(name):
    counted = f"{L1Config.size(name).model().num_params():,}"
    preset = read_settings(PRESETS / f"{name}.yaml").config.model
    assert counted == f"{preset.num_params():,}"
    assert re.search(rf"^\| {name} \| ~\d+[KM] \| {counted} \|$", PAGE, re.MULTILINE)
    assert any(f"gptwright count {name}" in does and counted in remark for _, _, does, remark in ROWS)
