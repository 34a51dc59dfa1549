import json
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gptwright.cli import doctor


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(doctor.command)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_json_is_exactly_one_object_with_what_was_measured(run):
    done = run("--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    cpu = facts["devices"][0]
    assert cpu["device"] == "cpu"
    assert cpu["matmul"]["fp32"]["flops"] > 1e8
    assert cpu["matmul"]["fp32"]["error"] < 1e-5
    assert cpu["precision"]["name"] in ("fp32", "bf16")
    assert "math" in cpu["sdpa"]
    assert facts["memory"]["total_bytes"] >= facts["memory"]["available_bytes"] > 0
    assert facts["threads"] >= 1
    assert facts["disk"]["current"]["free_bytes"] > 0


def test_the_table_says_the_precision_and_why(run):
    done = run()
    assert done.exit_code == 0
    for word in ("Machine", "Device cpu", "GFLOP/s", "precision", "fp32", "Optional packages", "torch.compile"):
        assert word in done.stdout


def test_a_cache_folder_that_is_not_there_yet_is_no_problem(run, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTWRIGHT_CACHE", str(tmp_path / "not" / "yet"))
    disk = json.loads(run("--json").stdout)["disk"]["cache"]
    assert disk["path"] == str(tmp_path / "not" / "yet")
    assert disk["writable"]
    assert not (tmp_path / "not").exists()


def test_a_missing_compiler_is_said_with_the_way_out(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler found" in run().stdout


def test_the_compiler_named_in_the_environment_comes_first(run, tmp_path, monkeypatch):
    own = tmp_path / "my-compiler"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("CXX", str(own))
    assert json.loads(run("--json").stdout)["compiler"] == str(own)


def test_a_missing_package_names_the_extra_that_brings_it():
    rows = doctor._package_rows({"pyarrow": {"version": None, "extra": "data"}})
    assert rows == [("pyarrow", "missing: pip install 'gptwright[data]'")]
    assert doctor._version("no-such-package-at-all") is None


def test_the_extras_are_those_of_the_package():
    project = Path(__file__).parents[2] / "pyproject.toml"
    declared = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    for package, extra in doctor.EXTRAS.items():
        assert any(line.startswith(package) for line in declared[extra]), (package, extra)
    extras = ("data", "track", "wandb", "mlflow", "finetune", "constrain", "hf", "eval", "gguf")
    named = {name for extra in extras for name in declared[extra]}  # transformers is in two of them
    assert len(named) == len(doctor.EXTRAS)


def test_a_format_that_does_not_run_is_said_in_words():
    assert doctor._matmul_words({"flops": 0.0, "error": None}) == "does not run here"
    assert "not a number" in doctor._matmul_words({"flops": 1e9, "error": None})
