import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gptwright
from gptwright.cli.main import main
from gptwright.cli.settings import resolve
from gptwright.config.yaml import Source, parse

FILE = """\
model:
  vocab_size: 65
  d_model: 64
  n_layers: 2
  max_seq_len: 32
  attention: {type: softmax, n_heads: 4}
  norm: rms_norm
optim: {lr: 0.01}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(FILE)
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nmodel: {attention: {n_heads: 2}, norm: layer_norm}\n")
    return tmp_path


def test_show_prints_settings_that_read_back(folder, capsys):
    assert main(["config", "show", "a.yaml", "model.n_layers=3"]) == 0
    out, err = capsys.readouterr()
    (folder / "shown.yaml").write_text(out)
    assert err == ""
    assert resolve("shown.yaml").config == resolve("a.yaml", ["model.n_layers=3"]).config
    assert resolve("shown.yaml").config.model.n_layers == 3


def test_show_sources(capsys):
    assert main(["config", "show", "a.yaml", "model.n_layers=3", "--sources"]) == 0
    lines = [line.split("#") for line in capsys.readouterr().out.splitlines() if "#" in line]
    places = [(key.strip(), place.strip()) for key, place in lines]
    assert ("n_layers: 3", "command line 'model.n_layers=3'") in places
    assert ("n_heads: 4", "a.yaml:6") in places
    assert ("type: rms_norm", "a.yaml:7") in places  # written as a bare name
    assert ("type: adamw", "default") in places
    assert ("lr: 0.01", "a.yaml:8") in places
    assert ("wiring: pre", "default") in places


def test_check_says_ok(capsys):
    assert main(["config", "check", "a.yaml"]) == 0
    assert capsys.readouterr().out == "ok: a.yaml\n"


def test_check_lists_every_problem(capsys):
    assert main(["config", "check", "a.yaml", "model.d_modle=3", "optim.lr=fast", "model.attention.n_heads=0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "error: 3 settings are wrong:",
        "  model.attention.n_heads: must be more than 0, but is 0 (command line 'model.attention.n_heads=0')",
        "  model.d_modle: unknown key; did you mean 'd_model'? (command line 'model.d_modle=3')",
        "  optim.lr: must be a number, but is 'fast' (command line 'optim.lr=fast')",
    ]


def test_notes_go_to_stderr(capsys):
    assert main(["config", "check", "b.yaml", "model.attention={type: local, n_heads: 2, window: 8}"]) == 0
    out, err = capsys.readouterr()
    assert out == "ok: b.yaml\n"
    assert err.startswith("note: model.attention.type is now 'local' (command line 'model.attention=")


def test_diff_shows_what_differs(capsys):
    assert main(["config", "diff", "a.yaml", "b.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "model.attention.n_heads: 4 -> 2" in lines
    assert 'model.norm.type: "rms_norm" -> "layer_norm"' in lines
    assert not any(line.startswith("optim") for line in lines)
    assert main(["config", "diff", "a.yaml", "a.yaml"]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_schema_is_json_of_all_settings(capsys):
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"attention", "attention.softmax", "optim.adamw", "tokenizer.byte"} <= set(schema["$defs"])
    assert schema["properties"]["model"]["$ref"] == "#/$defs/ModelConfig"


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m gptwright config schema | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(Path(gptwright.__file__).parents[1])}
    done = subprocess.run(
        command, shell=True, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_a_file_that_is_not_there(capsys):
    assert main(["config", "show", "c.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no file 'c.yaml'")
    assert main(["config", "show", "model.d_model=3"]) == 2
    assert "name the file or preset first, then the settings" in capsys.readouterr().err


def test_shown_settings_are_yaml(capsys):
    assert main(["config", "show", "a.yaml"]) == 0
    node = parse(capsys.readouterr().out, Source("shown"))
    assert node is not None
    assert node.plain()["model"]["d_model"] == 64
