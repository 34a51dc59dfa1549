"""One trainer a run folder: a lock that the system lets go when its holder dies, however it dies."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gptwright.errors import GptwrightError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

LOCK = ".lock"
PATIENCE = 0.3
"""Seconds that a lock is waited for: who only looks whether a run is training holds it for an instant."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, which exists, inside the block.

    Raises:
        GptwrightError: another process holds it.
    """
    path = folder / LOCK
    handle = _take(path)
    try:
        yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # while held: who opened it meanwhile sees that it is gone
            os.close(handle)


def _take(path: Path) -> int | None:
    """Return the lock held on ``path``, or None where the system or the disk has none."""
    until = time.monotonic() + PATIENCE
    while fcntl is not None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                os.close(handle)
                time.sleep(0.02)
                continue
            holder = os.read(handle, 200).decode("utf-8", errors="replace") or "another process"
            os.close(handle)
            raise GptwrightError(
                f"run folder {path.parent} is being trained by {holder}; wait for it, stop it, or name another "
                "folder with --run"
            ) from None
        except OSError:  # a disk that knows no locks
            os.close(handle)
            return None
        if _still_there(handle, path):
            with suppress(OSError):  # a full disk: the lock holds without its words
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())
            return handle
        os.close(handle)
    return None


def _still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
