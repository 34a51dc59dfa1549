"""Files whose every byte was checked, and that are noticed when they change under a reader.

They are read by system calls and not mapped into memory: a mapped file that shrinks kills its reader by SIGBUS, where
a short read is an error with a name.
"""

import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from gptwright.errors import DataError

_MOST_OPEN = 256  # files held open at once, by all readers of this process


class CheckedFile:
    """A file of ``size`` bytes with a hash.

    Raises:
        DataError: it is missing or of another size.
    """

    def __init__(self, path: Path, size: int, sha256: str, *, what: str = "shard", way_out: str) -> None:
        self.path, self.size, self.sha256 = path, size, sha256
        self.what, self.way_out = what, way_out
        self._facts = self._look()

    def verify(self) -> None:
        """Hash the file.

        Raises:
            DataError: it is not what it was when it was written; both hashes are named.
        """
        facts = self._look()  # before it is read: what changes while it is read is noticed next time
        try:
            found = file_hash(self.path)
        except OSError as error:
            raise self._unreadable(error) from None
        if found != self.sha256:
            raise DataError(
                f"the {self.what} {self.path} does not match its hash (sha256 {found}, its index says "
                f"{self.sha256}): {self.way_out}"
            )
        _handles.close(self.path)
        self._facts = facts

    def check(self) -> None:
        """Look whether the file was touched since it was last hashed, and if so hash it again.

        Raises:
            DataError: it is gone or has changed.
        """
        if self._look() != self._facts:
            self.verify()

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset``.

        Raises:
            DataError: the file has become shorter or unreadable.
        """
        try:
            found = _handles.read(self.path, offset, count)
        except OSError as error:
            raise self._unreadable(error) from None
        if len(found) < count:
            raise DataError(
                f"the {self.what} {self.path} became shorter while it was being read (bytes {offset} to "
                f"{offset + count} of {self.size} are not all there): {self.way_out}"
            )
        return found

    def _look(self) -> tuple[int, int, int, int, int]:
        try:
            facts = self.path.stat()
        except OSError as error:
            raise self._unreadable(error) from None
        if facts.st_size != self.size:
            raise DataError(
                f"the {self.what} {self.path} has {facts.st_size} bytes and its index says {self.size}: {self.way_out}"
            )
        return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(f"the {self.what} {self.path} cannot be read ({error.strerror}): {self.way_out}")


class _Handles:
    """The files that are open, the least used of which is closed when there are too many."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._lock = Lock()

    def read(self, path: Path, offset: int, count: int) -> bytes:
        with self._lock:
            handle = self._handle(path)
            if hasattr(os, "pread"):
                return os.pread(handle, count, offset)
            os.lseek(handle, offset, os.SEEK_SET)  # Windows
            return os.read(handle, count)

    def _handle(self, path: Path) -> int:
        if path not in self._open:
            if len(self._open) >= _MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
            self._open[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._open.move_to_end(path)
        return self._open[path]

    def close(self, path: Path) -> None:
        with self._lock:
            handle = self._open.pop(path, None)
            if handle is not None:
                os.close(handle)


_handles = _Handles()


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
