"""Compiling the kernels: once, in the cache, and with a reason where it cannot be."""

import subprocess
import sys

import pytest

from gptwright.ops.native import build

SAY = "from gptwright.ops.native import build; print(build.library() is not None, build.why_not())"


def say(**changes: str) -> str:
    import os

    env = {**os.environ, **changes}
    return subprocess.run([sys.executable, "-c", SAY], env=env, capture_output=True, text=True, check=True).stdout


def test_they_can_be_switched_off():
    assert say(GPTWRIGHT_NATIVE="off") == "False GPTWRIGHT_NATIVE is off\n"


def test_without_a_compiler_there_is_a_reason(tmp_path):
    said = say(PATH=str(tmp_path), GPTWRIGHT_NATIVE=str(tmp_path))
    assert said == "False no C++ compiler was found (c++, g++ or clang++)\n"


def test_a_compiler_that_fails_is_quoted(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'error: not today' >&2\nexit 1\n")
    compiler.chmod(0o755)
    said = say(PATH=f"{tmp_path}:/bin:/usr/bin", GPTWRIGHT_NATIVE=str(tmp_path / "kept"))
    assert said == f"False {compiler} did not compile them: error: not today\n"


@pytest.mark.skipif(build.library() is None, reason=f"no native kernels: {build.why_not()}; they need a C++ compiler")
def test_they_are_compiled_once():
    found = build.library()
    assert found is build.library()
    assert found.gptwright_instruction_size() > 0
    assert build.why_not() is None
