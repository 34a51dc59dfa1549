import os
import signal
import subprocess
import sys
import time

import pytest
import typer

import gptwright
from gptwright.cli import main as cli
from gptwright.cli.main import VERBS, main, verb
from gptwright.errors import ConfigError


def run(*arguments, code=None, **options):
    """Run the command line in a process of its own."""
    program = ["-c", code] if code else ["-m", "gptwright"]
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_help_lists_every_verb_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from gptwright.cli.main import main\n"
        "code = main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'safetensors'} & set(sys.modules)\n"
        "verbs = {name for name in sys.modules if name.startswith('gptwright.cli.')} - {'gptwright.cli.main'}\n"
        "print(code, sorted(heavy), sorted(verbs))\n"
    )
    done = run(code=code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 [] []"
    for name, help_line in VERBS.items():
        assert f" {name} " in done.stdout
        assert help_line[:30] in done.stdout


def test_the_help_of_a_verb_imports_no_torch():
    code = "import sys\nfrom gptwright.cli.main import main\nmain(['config', '--help'])\nprint('torch' in sys.modules)"
    done = run(code=code)
    assert "schema" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_there(name):
    assert verb(name).name == name


def test_alone_it_shows_its_help(capsys):
    assert main([]) == 0
    assert "Usage: gptwright" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gptwright {gptwright.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["confg"], "error: there is no command 'confg'; did you mean 'config'? (commands: demo, train, "),
        (["zzz"], "error: there is no command 'zzz' (commands: demo, train, "),
        (["config", "show"], "error: missing argument 'CONFIG' (see: gptwright config show --help)"),
        (["config", "shw"], "error: no such command 'shw'"),
        (["--verison"], "error: no such option: --verison"),
        (
            ["config", "show", "x.yaml", "--model.d_model=3"],
            "error: no such option: --model.d_model; settings have no dashes: write model.d_model=VALUE",
        ),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(arguments, sentence, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(sentence)
    assert err.count("\n") == 1


@pytest.fixture
def failing(monkeypatch):
    """Return a function that makes the verb `doctor` raise an error."""

    def fail_with(error):
        app = typer.Typer()

        @app.command()
        def command() -> None:
            raise error

        stand_in = typer.main.get_command(app)
        monkeypatch.setattr(cli, "verb", lambda name: stand_in)

    return fail_with


def test_a_mistake_of_the_user_is_a_sentence_without_traceback(failing, capsys, monkeypatch):
    monkeypatch.delenv("GPTWRIGHT_DEBUG", raising=False)
    failing(ConfigError("two values and a way out"))
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "error: two values and a way out\n"


@pytest.mark.parametrize("arguments", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_shows_the_traceback(failing, arguments, capsys):
    failing(ConfigError("two values"))
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: two values\n")


def test_debug_by_environment(failing, capsys, monkeypatch):
    monkeypatch.setenv("GPTWRIGHT_DEBUG", "1")
    failing(ConfigError("two values"))
    assert main(["doctor"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_ours_shows_the_traceback_and_asks_for_a_report(failing, capsys):
    failing(ZeroDivisionError("division by zero"))
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "error: ZeroDivisionError: division by zero\n" in err
    assert "please report it" in err.splitlines()[-1]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(3), 3), (typer.Exit(2), 2)])
def test_other_ways_out(failing, error, code):
    failing(error)
    assert main(["doctor"]) == code


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_leaves_with_130():
    code = (
        "import sys, time, typer\n"
        "from gptwright.cli import main as cli\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def wait() -> None:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "cli.verb = lambda name: typer.main.get_command(app)\n"
        "sys.exit(cli.main(['doctor']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
