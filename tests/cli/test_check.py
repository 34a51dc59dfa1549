"""`gptwright check` in a workshop with a file of one's own."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

BROKEN = (Path(__file__).parents[1] / "check" / "broken.py").read_text("utf-8")


@pytest.fixture
def own(workshop):
    """Put sound and broken components into `own_parts.py` of the current folder."""
    (workshop / "own_parts.py").write_text(BROKEN)
    yield workshop
    sys.modules.pop("own_parts", None)


def my_file() -> str:
    """Return the content of the file that the contract tests bring from outside."""
    path = Path(__file__).parents[1] / "contracts" / "strangers.py"
    spec = importlib.util.spec_from_file_location("strangers_for_check", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MY_FILE


def test_a_class_that_keeps_every_law(gptwright, workshop):
    (workshop / "mine.py").write_text(my_file())
    done = gptwright("check", "mine:MyAttention")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "mine:MyAttention as attention in models of d_model 32, with heads=2"
    table = lines[2 : lines.index("", 2)]
    assert len(table) == 23
    assert all(line[38:].startswith("kept") for line in table)
    assert "compiled equals eager                 kept" in table
    assert "slices sum to the whole               kept    not cut: mine:MyAttention has no tp_plan" in table
    assert lines[-1] == "mine:MyAttention keeps all 23 laws"


def test_a_class_that_breaks_one(gptwright, own):
    done = gptwright("check", "own_parts.py:Peeks")
    assert done.code == 2
    assert "the future is unseen                  BROKEN  see below\n" in done.out
    assert "steps equal full                      open    rests on: the future is unseen\n" in done.out
    assert (
        "\nBROKEN: the future is unseen\n"
        "  promised  Changing a token changes its own output and nothing before it.\n"
        "  found     outputs of the tokens before 1 when token 1 is changed: the largest relative difference is "
    ) in done.out
    assert "Traceback" not in done.out + done.err
    assert done.err == (
        "error: own_parts:Peeks breaks 1 of 23 laws: 'the future is unseen'; 9 that rest on it stay open\n"
    )


def test_an_exception_is_told_with_its_line(gptwright, own):
    line = next(n for n, text in enumerate(BROKEN.splitlines(), 1) if "the kernel is asleep" in text)
    done = gptwright("check", "own_parts:Raises")
    assert done.code == 2
    assert f"  found     ValueError: the kernel is asleep (own_parts.py:{line})\n" in done.out
    assert "Traceback" not in done.out + done.err
    told = gptwright("check", "own_parts:Raises", "--debug")
    assert 'raise ValueError("the kernel is asleep' in told.err
    assert told.code == 2


def test_json(gptwright, own):
    done = gptwright("check", "own_parts:Raises", "--json")
    assert done.code == 2
    assert {key: done.json[key] for key in ("component", "slot", "kept", "d_model", "examples")} == {
        "component": "own_parts:Raises",
        "slot": "attention",
        "kept": False,
        "d_model": 32,
        "examples": [{}],
    }
    first, second = done.json["laws"][:2]
    assert (first["law"], first["outcome"], second["outcome"]) == ("shapes are kept", "broken", "open")
    assert set(first) == {"law", "promise", "outcome", "words", "settings"}


def test_settings_of_the_class_and_of_the_model_around_it(gptwright, own):
    done = gptwright("check", "own_parts:Narrows", "model.d_model=48", "model.position=rotary", "--json")
    assert done.json["d_model"] == 48
    assert "shape (2, 150, 47) for inputs of (2, 150, 48)" in done.json["laws"][0]["words"]
    done = gptwright("check", "own_parts:Forgets", "n_heads=2", "--json")
    assert done.json["examples"] == [{"n_heads": 2}]


def test_the_settings_that_break_a_law_are_told_among_several(gptwright, own):
    with (own / "own_parts.py").open("a") as file:
        file.write("\n\nclass Both(Raises):\n    EXAMPLES = ({}, {})\n")
    done = gptwright("check", "own_parts:Both")
    assert "own_parts:Both as attention in models of d_model 32, with its 2 examples\n" in done.out
    assert "\n  with      no settings\n" in done.out


@pytest.fixture
def page(workshop):
    """Return the page about components of one's own, whose files lie in the current folder."""
    text = (Path(__file__).parents[2] / "docs" / "own-component.md").read_text("utf-8")
    for file, code in re.findall(r"<!-- file: (\S+\.py) -->\n```python\n(.*?)```", text, re.DOTALL):
        (workshop / file).write_text(code)
    yield text
    for name in ("heads", "mean", "careless"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("cls", ["heads:Heads", "careless:Careless"])
def test_the_page_shows_what_is_printed(gptwright, page, cls):
    done = gptwright("check", cls)
    shown = next(block for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if f"{cls} as attention" in block)
    figures = re.compile(r"\d\.\de-\d\d|\d+%")
    printed = figures.sub("#", done.out + done.err)
    assert printed == figures.sub("#", shown.removeprefix(f"$ gptwright check {cls}\n"))


def test_the_page_names_every_law(page, gptwright, own):
    laws = gptwright("check", "own_parts:Raises", "--json").json["laws"]
    assert re.findall(r"^\| ([a-z ]+) \| ([A-Z`].*\.) \|$", page, re.MULTILINE) == [
        (law["law"], law["promise"]) for law in laws
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sofmax"], "there is no component 'sofmax'; name a class of your own as package.module:Class or "),
        (["own_parts:Peek"], "module 'own_parts' has no class 'Peek'; did you mean 'Peeks'?"),
        (["nowhere:Thing"], "component 'nowhere:Thing' cannot be imported: ModuleNotFoundError: No module named"),
        (["softmax", "heads=3"], "softmax cannot be built with heads=3: 2 settings are wrong:"),
        (["softmax", "n_heads"], "'n_heads' has no value; write a setting as n_heads=VALUE"),
        (["softmax", "model=3"], "model=3 says nothing; set what surrounds the component, as in model.d_model=48"),
        (["softmax", "n_heads=4", "model.d_model=30"], "n_heads 4 must divide d_model 30; use 3 or 5 heads"),
    ],
)
def test_a_mistake_is_one_sentence(gptwright, own, arguments, sentence):
    done = gptwright("check", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert sentence in done.err
