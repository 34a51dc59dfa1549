import os

from gptwright.cli.demo import fresh
from gptwright.cli.settings import resolve


def test_it_trains_shows_and_says_how_to_go_on(gptwright, workshop, commands):
    done = gptwright("demo", "--steps", 2)
    assert (done.code, done.out) == (0, ""), done.err
    assert "learns from python-docs for 2 steps" in done.err
    assert "sample at step 2" in done.err
    assert "training loss" in done.err
    (workshop / "my-text.txt").write_text("Once upon a time there was a king.\n" * 2000)
    generate, evaluate, local, mine = commands(done.err)
    for arguments in (generate, evaluate, [*local, "train.eval_every=0"], [*mine, "train.eval_every=0"]):
        ran = gptwright(*arguments)
        assert ran.code == 0, (arguments, ran.err)
    assert resolve("runs/local/config.yaml").config.model.attention.type == "local"
    assert resolve("runs/mine/config.yaml").config.data.source == "my-text.txt"


def test_a_second_demo_takes_a_new_folder_and_loses_nothing(gptwright, workshop):
    (workshop / "runs" / "demo").mkdir(parents=True)
    (workshop / "runs" / "demo" / "config.yaml").write_text("precious")
    done = gptwright("demo", "--steps", 1, "--json")
    assert done.code == 0, done.err
    assert (done.json["run"], done.json["step"]) == ("runs/demo-2", 1)
    assert "It goes to runs/demo-2, since runs/demo is in use." in done.err
    assert (workshop / "runs" / "demo" / "config.yaml").read_text() == "precious"


def test_a_folder_named_is_never_overwritten(gptwright, workshop):
    (workshop / "mine").mkdir()
    (workshop / "mine" / "notes.txt").write_text("precious")
    done = gptwright("demo", "--run", "mine", "--quiet")
    assert done.code == 2
    assert done.err.startswith("error: run folder mine exists already")
    assert os.listdir("mine") == ["notes.txt"]


def test_fresh_names(workshop):
    folder = workshop / "runs" / "demo"
    assert fresh(folder) == folder
    folder.mkdir(parents=True)
    assert fresh(folder) == folder  # empty
    for number in (1, 2):
        used = fresh(folder)
        used.mkdir(exist_ok=True)
        (used / "x").touch()
        assert fresh(folder).name == f"demo-{number + 1}"
