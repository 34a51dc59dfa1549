"""Keeping freed memory: large tensors come back from the allocator instead of from the system.

glibc returns large freed blocks to the system at once; the next tensor of that size is then mapped and
zeroed page by page, thousands of page faults a training step. For the time of a run the blocks are kept:
after a few steps the heap has found its size, and every tensor lands on pages that are there already.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEEP = 1 << 30
_GLIBC_LARGEST_DEFAULT = 32 << 20  # where glibc's own moving threshold ends up in a program like this


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed blocks inside the ``with`` block; give them back at its end. Without glibc, do nothing."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _KEEP)
    libc.mallopt(_TRIM_THRESHOLD, _KEEP)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _GLIBC_LARGEST_DEFAULT)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _GLIBC_LARGEST_DEFAULT)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
