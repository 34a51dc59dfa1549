"""How fast this machine reads memory, which is what bounds decoding: every weight is read once a token."""

import time
from functools import cache

import torch

SIZE = 1 << 29
"""Bytes that are read: far more than caches hold."""
_TIMES = 7


@cache
def read_bandwidth(device: str = "cpu", threads: int = 0, size: int | None = None) -> float:
    """Return bytes read a second by summing a buffer of ``size`` bytes (default `SIZE`), the best of several times.

    Measured once a process for each device and number of ``threads`` (0: as many as torch uses now).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        buffer = torch.ones((size or SIZE) // 4, device=device)
        return max(buffer.nbytes / _seconds(buffer) for _ in range(_TIMES))
    finally:
        torch.set_num_threads(before)


def _seconds(buffer: torch.Tensor) -> float:
    began = time.perf_counter()
    buffer.sum().item()  # waits for a device
    return time.perf_counter() - began
