"""A run in a process of its own, and the same run left in peace."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .. import tiny

CODE = """
import json, sys
import gptwright as gw
from gptwright.ops.precision import Machine
Machine.best_fp32 = lambda self: "fp32"  # which is faster is measured: on a busy machine two new runs may differ
try:
    result = gw.train(json.loads(sys.argv[1]), run=sys.argv[2], resume=sys.argv[3] == "resume", progress=False)
    print(json.dumps(result.to_dict()))
except gw.GptwrightError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(tiny.text(), "utf-8")
    return path


@pytest.fixture
def config(book):
    """A run long enough to be caught, that saves after every step."""
    changes = {"train.steps": 80, "train.checkpoint_every": 1, "train.keep_checkpoints": 3, "train.micro_batch": 2}
    return tiny.settings(book, changes)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=False)


@pytest.fixture
def start():
    """Start or resume a run: ``start(config, folder, resume=True)``; what still runs at the end is killed."""
    started = []

    def start(config, folder: Path, *, resume: bool = False, before: str = "", **environment: str):
        arguments = (json.dumps(config), str(folder), "resume" if resume else "start")
        started.append(tiny.python(before + CODE, folder.parent, *arguments, **environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
