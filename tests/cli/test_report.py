"""`gptwright report RUN`, as a command of its own."""

import json

import pytest
import typer
from typer.testing import CliRunner

from gptwright.cli.report import command
from gptwright.errors import CheckpointError


def invoke(*arguments):
    app = typer.Typer()
    app.command("report")(command)
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    return tmp_path


def test_it_prints_where_the_page_is(run):
    done = invoke(str(run), "--title", "My <run>")
    assert done.exit_code == 0
    assert done.stdout == f"{run / 'report.html'}\n"
    assert "<h1>My &lt;run&gt;</h1>" in (run / "report.html").read_text("utf-8")


def test_json_is_one_object(run):
    done = invoke(str(run), "--json")
    assert json.loads(done.stdout) == {"run": str(run), "report": str(run / "report.html")}


def test_a_folder_that_is_not_there(tmp_path):
    done = invoke(str(tmp_path / "absent"))
    assert isinstance(done.exception, CheckpointError)
    assert "there is no run folder" in str(done.exception)
