"""Programs of native instructions: built once with fixed memory, run with one call.

An instruction computes into memory that was allocated for it. Running it again computes anew from whatever its
inputs hold then. See the headers beside ``kernels.cpp`` for what each reads.

Shapes: R rows, K inputs, N outputs.
"""

import ctypes
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from gptwright.ops.native.build import library

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.uint8: 3}
"""What each kind of memory is called there; uint8 is int4, two to a byte."""


class Op(IntEnum):
    """What an instruction does; the order is that of ``vectors.h``."""

    LINEAR = 0
    RMS_NORM = 1
    LAYER_NORM = 2
    ROTATE = 3
    STORE = 4
    ATTEND = 5
    ADD = 6
    MUL = 7
    SILU = 8
    GELU = 9
    GELU_TANH = 10
    RELU = 11
    CAST = 12
    EMBED = 13


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_int64),
        ("type", ctypes.c_int64),
        ("weight_type", ctypes.c_int64),
        ("p", ctypes.c_void_p * 10),
        ("n", ctypes.c_int64 * 20),
        ("f", ctypes.c_double * 4),
    )


class Instruction:
    """One instruction, with the tensors whose memory it uses."""

    def __init__(
        self,
        op: Op,
        dtype: torch.dtype,
        tensors: Sequence[Tensor | None],
        sizes: Iterable[int] = (),
        factors: Iterable[float] = (),
        *,
        weights: torch.dtype = torch.float32,
    ) -> None:
        self.tensors = [x for x in tensors if x is not None]
        self.raw = _Instruction(op, TYPES[dtype], TYPES[weights])
        for index, tensor in enumerate(tensors):
            self.raw.p[index] = None if tensor is None else tensor.data_ptr()
        for index, size in enumerate(sizes):
            self.raw.n[index] = size
        for index, factor in enumerate(factors):
            self.raw.f[index] = factor


class Program:
    """Instructions that run one after the other, each shared by all threads."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        found = library()
        assert found is not None
        self._run: Any = found.gptwright_run
        self._kept = [instruction.tensors for instruction in instructions]
        self._array = (_Instruction * len(instructions))(*(instruction.raw for instruction in instructions))
        self._address, self._count = ctypes.addressof(self._array), len(instructions)

    def run(self) -> None:
        """Run all of them."""
        self._run(self._address, self._count, torch.get_num_threads())


class _Current:
    recording: "list[Any] | None" = None


def recording() -> bool:
    """Whether what is computed now is being written down as a program."""
    return _Current.recording is not None


def emit(instruction: Instruction) -> None:
    """Run an instruction now, and write it down where a program is being recorded."""
    Program([instruction]).run()
    if _Current.recording is not None:
        _Current.recording.append(instruction)


def record(into: list[Any] | None) -> list[Any] | None:
    """Write instructions down into a list from now on, or nowhere; return where they went before."""
    before, _Current.recording = _Current.recording, into
    return before
