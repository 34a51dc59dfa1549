"""Products with weights of few bits, by the kernel that was measured fastest here.

A kernel reads the packed matrix itself: for a few rows, time is bytes read. For many rows the arithmetic counts, and
the matrix is unpacked in pieces for the usual product. `KERNELS` holds what there is to choose from; the choice is
made once a process for each kind of product, by timing (`chosen`). Shapes: R rows, N outputs, K inputs.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwright.ops.native import kernels
from gptwright.ops.native.build import library
from gptwright.ops.native.program import recording
from gptwright.ops.packed import GROUP, Packed, nibbles, pack, unpack

MANY_ROWS = 64
"""From so many rows on, a matrix is always unpacked."""
LARGE = 1 << 20
"""Elements above which a matrix does not fit beside others in a core's cache; small ones are timed apart."""
ERROR = 1.5e-2
"""Largest relative error of a kernel, against the unpacked product, that is still bf16's rounding."""
_PIECE = 1 << 22
"""Elements unpacked at once."""
_LARGE_SHAPE, _SMALL_SHAPE = (1024, 2048), (256, 512)


@dataclass(frozen=True)
class Kernel:
    """One way to compute x W^T + b."""

    takes: Callable[[Tensor, Packed], bool]
    """Whether it can: given x (R, K) and the matrix (N, K)."""
    product: Callable[[Tensor, Packed, Tensor | None], Tensor]
    """Returns (R, N) in the dtype of x, with a bias (N,) of that dtype added."""


def linear(x: Tensor, weight: Packed, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + bias (..., N) for ``x`` (..., K), in the dtype of ``x``; gradients reach ``x`` alone."""
    rows = x.reshape(-1, x.shape[-1])  # (R, K)
    out = kernel_for(rows, weight).product(rows, weight, None if bias is None else bias.to(x.dtype))
    return out.view(*x.shape[:-1], out.shape[-1])


def embedding(ids: Tensor, weight: Packed, dtype: torch.dtype) -> Tensor:
    """Return the rows (..., K) that ``ids`` name, in ``dtype``.

    Raises:
        IndexError: an id is negative, or there is no such row.
    """
    if (
        recording()
        and weight.bits == 8
        and dtype in kernels.DTYPES
        and ids.dtype == torch.int64
        and ids.is_contiguous()
    ):
        return kernels.embed(ids, weight.q, weight.scale, dtype)  # whoever records has checked the ids
    return unpack(weight.rows(ids.reshape(-1)), dtype).view(*ids.shape, -1)


def kernel_for(x: Tensor, weight: Packed) -> Kernel:
    """Return the kernel that multiplies ``x`` (R, K) by the matrix."""
    if recording() and NATIVE.takes(x, weight):  # anything else would be many steps, and a choice would be one as well
        return NATIVE
    differentiated = x.requires_grad and torch.is_grad_enabled()
    if len(x) >= MANY_ROWS or differentiated or not len(x) or torch.compiler.is_compiling():
        return UNPACKED
    size = _LARGE_SHAPE if x.shape[1] * weight.shape[0] >= LARGE else _SMALL_SHAPE
    rows = 1 << (len(x) - 1).bit_length()  # classes: 1, 2, 3-4, 5-8, ...
    for name in chosen(weight.bits, x.dtype, rows, size, str(x.device), torch.get_num_threads()):
        if KERNELS[name].takes(x, weight):
            return KERNELS[name]
    return UNPACKED


@lru_cache
def chosen(
    bits: int, dtype: torch.dtype, rows: int, size: tuple[int, int], device: str, threads: int
) -> tuple[str, ...]:
    """Return the kernels that are right and faster than unpacking for such products, the fastest first.

    One warning a process and device says so where there is no kernel at all.
    """
    del threads  # part of the key: the same device is another machine with another number of threads
    generator = torch.Generator().manual_seed(0)  # our own: the user's random state is not touched
    x = torch.randn(rows, size[1], generator=generator).to(device, dtype)
    w = pack(torch.randn(size, generator=generator), bits)
    w = Packed(w.q.to(device), w.scale.to(device), None if w.offset is None else w.offset.to(device))
    with torch.inference_mode():
        able = [name for name, kernel in KERNELS.items() if _right(kernel, x, w)]
        times = {name: _seconds(KERNELS[name], x, w) for name in able}
        limit = _seconds(UNPACKED, x, w) if able else 0.0
    if not able:
        _warn(bits, torch.device(device).type)
    return tuple(sorted((name for name in able if times[name] < limit), key=times.__getitem__))


@lru_cache
def _warn(bits: int, device: str) -> None:
    warnings.warn(
        f"no kernel here multiplies by weights of {bits} bits on {device}: they are unpacked for every token, which "
        "saves memory but is slower than the weights as they were",
        stacklevel=2,
    )


def _right(kernel: Kernel, x: Tensor, weight: Packed) -> bool:
    """Whether the kernel runs here, and computes what unpacking computes."""
    try:
        if not kernel.takes(x, weight):
            return False
        found = kernel.product(x, weight, None).double()
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    exact = x.double() @ unpack(weight).double().T
    return bool((found - exact).norm() <= ERROR * exact.norm())


def _seconds(kernel: Kernel, x: Tensor, weight: Packed) -> float:
    """Return the median of 7 products."""
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        kernel.product(x, weight, None)
        if x.device.type != "cpu":
            torch.accelerator.synchronize(x.device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _native_takes(x: Tensor, weight: Packed) -> bool:
    del weight
    return kernels.suits(x) and library() is not None


def _native(x: Tensor, weight: Packed, bias: Tensor | None) -> Tensor:
    return kernels.linear(x, weight.q, bias, weight.scale, weight.offset)


def _unpacked(x: Tensor, weight: Packed, bias: Tensor | None) -> Tensor:
    """Unpack some rows of the matrix at a time and multiply as usual."""
    outputs, columns = weight.shape
    step = max(1, _PIECE // max(1, columns))
    pieces = (weight.between(at, min(at + step, outputs)) for at in range(0, outputs, step))
    return _plus(torch.cat([F.linear(x, unpack(piece, x.dtype)) for piece in pieces], -1), bias)


def _plus(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out + bias


def _torch8_takes(x: Tensor, weight: Packed) -> bool:
    """Torch's kernel reads 16 columns at a time, and beyond the end of rows that are no multiple of that."""
    halves = (torch.float32, torch.bfloat16, torch.float16)
    return weight.bits == 8 and x.device.type == "cpu" and x.dtype in halves and x.shape[1] % 16 == 0


def _torch8(x: Tensor, weight: Packed, bias: Tensor | None) -> Tensor:
    # the kernel wants scales in the dtype of x, and rounding them to bf16 would scale whole rows wrongly
    single = x.dtype == torch.float32
    scale = weight.scale if single else torch.ones(len(weight.scale), dtype=x.dtype, device=x.device)
    out = torch.ops.aten._weight_int8pack_mm(x.contiguous(), weight.q, scale)
    return _plus(out if single else (out * weight.scale).to(x.dtype), bias)


def _torch4_takes(x: Tensor, weight: Packed) -> bool:
    return weight.bits == 4 and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _torch4(x: Tensor, weight: Packed, bias: Tensor | None) -> Tensor:
    q, scales = _repacked(weight, x.dtype)
    out = torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), q, GROUP, scales)
    return _plus(out[:, : weight.shape[0]], bias)


def _repacked(weight: Packed, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the matrix in the layout of torch's kernel, which is kept with it: (q - 8) scale + zero."""
    kept = weight.__dict__.setdefault("repacked", {})
    if dtype not in kept:
        assert weight.offset is not None
        more = -weight.shape[0] % 16  # the kernel wants a multiple of 16 rows
        q = F.pad(nibbles(weight).flatten(1).int(), (0, 0, 0, more))
        scale, offset = (F.pad(part.float(), (0, 0, 0, more)) for part in (weight.scale, weight.offset))
        scales = torch.stack((scale.T, (offset + 8 * scale).T), -1).contiguous().to(dtype)  # (G, N, 2)
        kept[dtype] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1), scales
    return kept[dtype]


UNPACKED = Kernel(lambda x, weight: True, _unpacked)
"""The readable way, and the fast one for many rows."""
NATIVE = Kernel(_native_takes, _native)
"""Our own, where a compiler was found."""
KERNELS: dict[str, Kernel] = {
    "native": NATIVE,
    "torch8": Kernel(_torch8_takes, _torch8),
    "torch4": Kernel(_torch4_takes, _torch4),
}
"""The kernels that read packed weights, by name; one more is taken into the choice by being put in here."""
