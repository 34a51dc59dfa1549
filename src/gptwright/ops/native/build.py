"""Compiling the kernels for this machine, once: the result is kept in the cache."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from gptwright.config.cache import cache_folder

SWITCH = "GPTWRIGHT_NATIVE"
"""Environment variable: `off` leaves the kernels uncompiled and unused; a folder is where they are kept."""
SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
_WAYS = (
    # torch's own threads: two teams that wait for each other by spinning would take each other's cores
    (("-march=native", "-fopenmp"), ()),
    (("-march=native", "-fopenmp"), ("-fopenmp",)),
    (("-march=native",), ()),
    ((), ()),
)
"""Flags for compiling and linking, the best first."""
_SECONDS = 180
_OFF = ("off", "0", "no")


class MissingError(Exception):
    """Why there are no kernels here."""


def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where there are none; `why_not` says why."""
    return _found()[0]


def why_not() -> str | None:
    """Return why there are no kernels here, or None where there are."""
    return _found()[1]


def compiled() -> bool:
    """Whether asking for the kernels takes no time: they lie ready, or there will be none."""
    if _found.cache_info().currsize or os.environ.get(SWITCH, "").lower() in _OFF:
        return True
    compiler = _compiler()
    return compiler is None or any(_path(compiler, *way).exists() for way in _WAYS)


@cache
def _found() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get(SWITCH, "").lower() in _OFF:
        return None, f"{SWITCH} is off"
    try:
        return _compiled(), None
    except MissingError as reason:
        return None, str(reason)
    except OSError as error:
        return None, f"the cache cannot be used ({error.strerror or error})"


def _compiled() -> ctypes.CDLL:
    compiler = _compiler()
    if compiler is None:
        raise MissingError("no C++ compiler was found (c++, g++ or clang++)")
    reasons = []
    for compiling, linking in _WAYS:
        path = _path(compiler, compiling, linking)
        try:
            if not path.exists():
                _compile(compiler, compiling, linking, path)
            return _loaded(path)
        except MissingError as reason:
            reasons.append(str(reason))
    raise MissingError(f"{compiler} did not compile them: {reasons[-1]}")


def _compiler() -> str | None:
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def _path(compiler: str, compiling: tuple[str, ...], linking: tuple[str, ...]) -> Path:
    """Return where the result of this way lies, or would lie."""
    chosen = os.environ.get(SWITCH)
    folder = Path(chosen) if chosen else cache_folder() / "native"
    return folder / f"kernels-{_key(compiler, *compiling, *linking)}.so"


def _key(*parts: str) -> str:
    """Return what distinguishes one result from another: the source, the flags, torch and the processor."""
    sources = [path.read_text("utf-8") for path in sorted(SOURCE.parent.iterdir()) if path.suffix in (".h", ".cpp")]
    facts = (*sources, *_FLAGS, *parts, torch.__version__, platform.machine())
    return hashlib.sha256("\0".join((*facts, repr(sorted(torch.cpu.get_capabilities().items())))).encode()).hexdigest()[
        :16
    ]


def _compile(compiler: str, compiling: tuple[str, ...], linking: tuple[str, ...], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        parts, whole = Path(folder) / "kernels.o", Path(folder) / path.name
        _call([compiler, *_FLAGS, *compiling, "-c", str(SOURCE), "-o", str(parts)])
        _call([compiler, "-shared", *linking, str(parts), "-o", str(whole)])
        whole.replace(path)  # another process may have been first: the result is the same


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{command[0]} could not be run ({error})") from None
    if done.returncode:
        raise MissingError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0])


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:  # a symbol that only torch's OpenMP has, where torch has another
        raise MissingError(str(error)) from None
    found.gptwright_instruction_size.restype = ctypes.c_int64
    found.gptwright_run.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)
    found.gptwright_run.restype = None
    return found
