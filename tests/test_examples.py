"""Every example runs as a user runs it, and says what it is meant to say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ARGUMENTS = {"train_from_python": ["3"]}
SAYS = {
    "own_attention": r"parameters.*against all at once: \d\.\de-0[6-9]",
    "packing_and_padding": r"one row: .* \d\.\de-0[6-9].*batch: .* \d\.\de-0[6-9]",
    "train_from_python": r"3,072 tokens, .* bits a byte.*nats a token",
}


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(name, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *ARGUMENTS.get(name, [])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "GPTWRIGHT_CACHE": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS[name], done.stdout, re.DOTALL), done.stdout
