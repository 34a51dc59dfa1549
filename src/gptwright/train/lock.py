"""One trainer a run folder: a lock that the system lets go when its holder dies, however it dies."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gptwright.data.place import take_lock
from gptwright.errors import GptwrightError

LOCK = ".lock"
PATIENCE = 0.3
"""Seconds that a lock is waited for: who only looks whether a run is training holds it for an instant."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, which exists, inside the block.

    Raises:
        GptwrightError: another process holds it.
    """
    path, until = folder / LOCK, time.monotonic() + PATIENCE

    def waiting() -> None:
        if time.monotonic() > until:
            raise GptwrightError(
                f"run folder {folder} is being trained by {_holder(path)}; wait for it, stop it, or name another "
                "folder with --run"
            )

    handle = take_lock(path, waiting)
    try:
        if handle is not None:
            _sign(handle)
        yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # while held: who opened it meanwhile sees that it is gone
            os.close(handle)


def _sign(handle: int) -> None:
    with suppress(OSError):  # a full disk: the lock holds without its words
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())


def _holder(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")[:200] or "another process"
    except OSError:
        return "another process"
