"""Where prepared data lies, and how it gets there: built beside under a lock, then renamed whole."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from gptwright.config.cache import CACHE_VARIABLE
from gptwright.errors import DataError

try:
    import fcntl
except ImportError:  # Windows: no lock, so each attempt builds alone in a folder of its own
    fcntl = None

_POLL_SECONDS = 0.1


@contextmanager
def workplace(target: Path, waiting: Callable[[], None]) -> Iterator[Path]:
    """Yield the folder in which to build ``target``: what a killed attempt left there may be used again.

    One process at a time holds it; the others wait, and the system lets the lock go when its holder dies.
    Without locks (Windows, some network disks) each process gets an empty folder of its own.

    Raises:
        DataError: nothing can be written beside ``target``.
    """
    path = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(path, waiting)
        partial = target.with_name(f".{target.name}.partial" + ("" if lock is not None else f"-{uuid4().hex}"))
        partial.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(target.parent, error) from None
    try:
        yield partial
    finally:
        if lock is None:
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with suppress(OSError):
                partial.rmdir()  # left empty by one who waited and found the work done
            path.unlink(missing_ok=True)  # while held: who waited sees that it is gone, and takes a new one
            os.close(lock)


def unwritable(folder: Path, error: OSError) -> DataError:
    """Return the error that says that nothing can be written in ``folder``, and what to do."""
    return DataError(
        f"cannot write prepared data in {folder} ({error.strerror or error}): make room or allow writing there, "
        f"or choose another cache folder by setting {CACHE_VARIABLE}"
    )


def publish(partial: Path, target: Path) -> None:
    """Rename the finished folder into its place; if another process was first, its work stands.

    Raises:
        OSError: it cannot be renamed and nobody else's work is there.
    """
    sync_folder(partial)
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir() or not any(target.iterdir()):
            raise
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(target.parent)


def write_file(path: Path, content: bytes, *, lasting: bool = True) -> None:
    """Write a small file so that it is there whole or not at all; ``lasting``: also after a power cut.

    Raises:
        OSError: it cannot be written; what was there before still is, and nothing else.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` last, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def take_lock(path: Path, waiting: Callable[[], None]) -> int | None:
    """Return the lock held on ``path``, which is let go when it is closed or its process ends, however it ends.

    While another process holds it, ``waiting`` is called again and again; it may raise. None: the system or the
    disk knows no locks.
    """
    while fcntl is not None:
        handle, busy = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _still_there(handle, path):
                return handle
        except BlockingIOError:
            busy = True
        except OSError:  # a disk that knows no locks
            os.close(handle)
            return None
        os.close(handle)
        if busy:
            waiting()
            time.sleep(_POLL_SECONDS)
    return None


def _still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
