"""Everything that the documents tell a reader to type is typed here, in order, in a folder of the reader's own.

In a document, ``<!-- file: NAME -->`` before a block means that the reader saves it as NAME. Blocks of ``bash`` are
commands, blocks of ``python`` are run. To be quick, training gets the settings of `TINY` besides what is written, and
the commands that install are looked at only: do their files, extras and targets exist?
"""

import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from gptwright.cli.main import main
from gptwright.nn.slots import ATTENTION, FEED_FORWARD, NORM, POSITION
from gptwright.tokenizer.load import SLOT as TOKENIZER
from gptwright.train.config import CALLBACK, OPTIM, SCHEDULE
from gptwright.train.track.base import TRACKER

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    "README.md",
    "docs/quickstart.md",
    "docs/own-component.md",
    "docs/runs.md",
    "docs/checkpoints.md",
    "docs/data.md",
    "docs/fine-tuning.md",
    "docs/watching.md",
    "docs/generating.md",
    "docs/chat.md",
    "docs/speed.md",
    "docs/quantization.md",
    "docs/data-files.md",
    "docs/evaluating.md",
    "docs/import-export.md",
    "docs/hugging-face.md",
]
TINY = ["train.tokens_per_step=512", "train.eval_every=0", "train.sample_tokens=8", "train.trackers=[]"]
_BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n+)?```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)```", re.DOTALL)
_MENUS = {
    "model.attention": ATTENTION,
    "model.feed_forward": FEED_FORWARD,
    "model.norm": NORM,
    "model.position": POSITION,
    "data.tokenizer": TOKENIZER,
    "optim": OPTIM,
    "schedule": SCHEDULE,
    "train.trackers": TRACKER,
    "train.callbacks": CALLBACK,
}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a text in it, the repository's configs beside it, and a cache of its own."""
    (tmp_path / "my-text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 400)
    if (ROOT / "configs").is_dir():
        (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def blocks(document):
    """Yield (file, kind, text) of each block of a document."""
    for found in _BLOCK.finditer((ROOT / document).read_text("utf-8")):
        yield found["file"], found["kind"], found["text"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # as peft calls it
@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_says_works(document, desk, capsys):
    for file, kind, text in blocks(document):
        if file:
            (desk / file).write_text(text)
        elif kind == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                _type(shlex.split(line, comments=True), line, capsys)
        elif kind == "python":
            exec(compile(text, document, "exec"), {"__name__": "notebook"})


def _type(words, line, capsys):
    match words:
        case []:
            return
        case ["gptwright", *arguments]:
            capsys.readouterr()  # what earlier commands said
            code = main(_tiny(arguments))
            assert code == 0, f"{line}\n{capsys.readouterr().err}"
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        case ["pip", "install", *arguments]:
            _installs(arguments)
        case ["python" | "python3" | ".venv/bin/python", script, *_] if script.endswith(".py"):
            assert (ROOT / script).is_file(), line
        case _:
            known = ("git clone", "cd ", "python3 -m venv .venv", "source .venv/bin/activate", "pytest", ".venv/bin/")
            assert line.startswith(known), f"no test knows how to check this command: {line}"


def _tiny(arguments):
    if arguments[0] == "demo":
        return [*arguments, "--steps", "2"]
    if arguments[0] == "generate":
        return [*arguments, "--max-new-tokens", "8"]
    if arguments[0] != "train":
        return arguments
    return [*arguments, *TINY, f"train.steps={4 if '--resume' in arguments else 2}"]


def _installs(arguments):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for argument in arguments:
        if argument.endswith(".txt"):
            assert (ROOT / argument).is_file()
        for extra in re.findall(r"\[([\w,]+)\]", argument):
            assert set(extra.split(",")) <= set(extras)


@pytest.mark.parametrize("place", _MENUS)
def test_the_table_of_parts_is_the_menu(place):
    row = re.search(rf"^\| `{re.escape(place)}` \| (.*) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert row
    assert sorted(re.findall(r"`(\w+)`", row[1])) == _MENUS[place].names()


def _links():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
            if ":" not in target and "reference/" not in target:
                yield path, target


def test_links_between_documents_lead_somewhere():
    assert [f"{path.name}: {target}" for path, target in _links() if not (path.parent / target).exists()] == []


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"


def test_every_pin_is_exact_and_torch_fits_every_build():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins
    assert not any(pin.startswith("torchvision") for pin in pins)
