"""Which number format multiplies matrices fastest on this machine, and correctly: asked once, by measuring.

Names of CPUs promise little: one machine takes bf16 at twice the speed of fp32, the next emulates it. So
`probe` times one matrix product of a small GPT's shape in each format, compares it with float64, and
`choose` picks. Nothing happens on import, and nothing global stays changed: `Precision.scope` puts every
setting back."""

import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from gptwright.errors import ConfigError

Format = Literal["fp32", "fp32_medium", "bf16", "fp16"]
Float32Matmul = Literal["highest", "medium"]
Name = Literal["fp32", "bf16", "fp16"]

BF16_GAIN = 1.3
"""bf16 has to be this many times faster than the best fp32 before its rounding is worth having."""
MEDIUM_GAIN = 1.1
"""fp32 through oneDNN has to be this many times faster than plain fp32, so that noise does not decide."""
FP32_ERROR = 2e-6
"""Largest relative error of a product still called fp32 (plain fp32 shows about 3e-7, bf16 about 3e-3)."""
HALF_ERROR = 2e-2
"""Largest relative error of a bf16 or fp16 product that is merely rounded, not wrong."""

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What each precision computes in."""
_CPU_FLAGS = {"avx2": "avx2", "avx512_f": "avx512f", "avx512_bf16": "avx512_bf16", "amx_bf16": "amx"}


@dataclass(frozen=True)
class Matmul:
    """What one format measured: speed in FLOP/s (0 where it does not run) and relative error against
    float64."""

    flops: float
    error: float

    def right(self, tolerance: float) -> bool:
        """Say whether it ran and its error is within ``tolerance`` (a NaN never is)."""
        return self.flops > 0 and self.error <= tolerance


@dataclass(frozen=True)
class Machine:
    """What one device was found to do."""

    device: str
    """Its name, for people."""
    cpu_flags: tuple[str, ...]
    """Those of avx2, avx512f, avx512_bf16, amx that the CPU has."""
    threads: int
    """Threads torch used while measuring."""
    matmul: dict[Format, Matmul]
    """`fp32` (plain), `fp32_medium` (through oneDNN on a CPU, TF32 on CUDA) and `bf16`."""

    def best_fp32(self) -> Format:
        """Return the fastest format that is still fp32 by its measured error."""
        plain, medium = self.matmul["fp32"], self.matmul["fp32_medium"]
        faster = medium.flops >= MEDIUM_GAIN * plain.flops
        return "fp32_medium" if faster and medium.right(FP32_ERROR) else "fp32"


@dataclass(frozen=True)
class Precision:
    """The format a run computes its matrix products in; weights, norms, softmax and loss stay in fp32."""

    name: Name
    compute_dtype: torch.dtype
    float32_matmul: Float32Matmul
    """How the products that stay in fp32 are computed (see `torch.set_float32_matmul_precision`)."""
    reason: str
    """Why, in one sentence with the measured figures."""

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Compute fp32 products as chosen inside the ``with`` block; afterwards everything is as before."""
        with float32_matmul(self.float32_matmul):
            yield


@contextmanager
def float32_matmul(mode: Float32Matmul) -> Iterator[None]:
    """Set `torch.set_float32_matmul_precision` for a block and restore every flag it touches, also on
    errors."""
    mkldnn = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue] - made at run time
    cuda = torch.backends.cuda.matmul
    before = (_legacy_mode(), mkldnn.fp32_precision, cuda.fp32_precision)
    torch.set_float32_matmul_precision(mode)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        # The setter above writes "ieee" over torch's initial "none" (= inherit); put the exact words back.
        mkldnn.fp32_precision, cuda.fp32_precision = before[1:]


def _legacy_mode() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody used the newer per-backend flags, which we restore one by one
        return "highest"


def probe(device: str | torch.device = "cpu") -> Machine:
    """Measure the device, once a process and number of threads (about half a second on a CPU)."""
    return _probe(str(_existing(device)), torch.get_num_threads())


@lru_cache
def _probe(device: str, threads: int) -> Machine:
    capabilities = torch.cpu.get_capabilities()
    formats: tuple[Format, ...] = ("fp32", "fp32_medium", "bf16")
    return Machine(
        device=device_name(device),
        cpu_flags=tuple(flag for key, flag in _CPU_FLAGS.items() if capabilities.get(key)),
        threads=threads,
        matmul={name: measure(name, device) for name in formats},
    )


def device_name(device: str | torch.device) -> str:
    """Return the name people know the device by."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())
    return device.type


def _existing(device: str | torch.device) -> torch.device:
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}' was asked for but this torch sees no CUDA device; use device=cpu")
    return device


def measure(name: Format, device: str | torch.device = "cpu") -> Matmul:
    """Time and check one format on a device; remembered for the process.

    A format that does not run there at all gives a speed of 0 and an error of NaN.
    """
    return _measure(name, str(_existing(device)), torch.get_num_threads())


@lru_cache
def _measure(name: Format, device: str, threads: int) -> Matmul:
    del threads  # part of the key: the same device is another machine with another number of threads
    try:
        with torch.no_grad(), float32_matmul("medium" if name == "fp32_medium" else "highest"):
            return _time_product(DTYPES[name.removesuffix("_medium")], torch.device(device))
    except (RuntimeError, NotImplementedError):
        return Matmul(0.0, float("nan"))


def _time_product(dtype: torch.dtype, device: torch.device) -> Matmul:
    """Multiply (rows, k) by (k, n): a small GPT's batch by its feed-forward on a CPU, a large square
    elsewhere."""
    rows, k, n = (4096, 384, 1536) if device.type == "cpu" else (4096, 4096, 4096)
    generator = torch.Generator().manual_seed(0)  # our own: the user's random state is not touched
    left = torch.randn(rows, k, generator=generator, device="cpu", dtype=torch.float32).to(device, dtype)
    right = torch.randn(k, n, generator=generator, device="cpu", dtype=torch.float32).to(device, dtype)
    few = left[:256]
    _seconds(few, right)  # the first product also builds the kernel
    if _seconds(few, right) * rows / len(few) > 0.15:  # emulated in software: the small product tells enough
        left = few
    product = left @ right
    exact = few.double() @ right.double() if device.type != "mps" else few.cpu().double() @ right.cpu().double()
    found = product[: len(few)].to(exact.device).double()
    error = float((found - exact).norm() / exact.norm())
    return Matmul(2 * len(left) * k * n / _median_seconds(left, right), error)


def _median_seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return the median of 3 to 7 products, fewer where they are slow."""
    times: list[float] = []
    while len(times) < 3 or (len(times) < 7 and sum(times) < 0.12):
        times.append(_seconds(left, right))
    return statistics.median(times)


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    repeats = 1 if left.device.type == "cpu" else 10  # an accelerator's launch and wait should not be counted
    _wait(left.device)
    begin = time.perf_counter()
    for _ in range(repeats):
        torch.mm(left, right)
    _wait(left.device)
    return max(time.perf_counter() - begin, 1e-9) / repeats


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def choose(name: str = "auto", device: str | torch.device = "cpu") -> Precision:
    """Return the precision that ``name`` (auto, fp32, bf16 or fp16) means on this device, with the reason.

    ``auto`` takes bf16 where it is measured `BF16_GAIN` times faster than the best fp32 and numerically
    right, else fp32; on CUDA bf16 where the chip has it, else fp16 (which wants a gradient scaler).

    Raises:
        ConfigError: the name is unknown, or the device is not there.
    """
    if name not in ("auto", *DTYPES):
        raise ConfigError(f"precision '{name}' is unknown; choose one of auto, fp32, bf16, fp16")
    device = _existing(device)
    if device.type == "cuda":
        return _choose_cuda(name)
    return _choose_measured(name, probe(device))


def _choose_cuda(name: str) -> Precision:
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    picked = name if name != "auto" else "bf16" if bf16 else "fp16"
    chip = f"this GPU {'computes bf16 natively' if bf16 else 'has no native bf16'}"
    return _precision(picked, "highest", chip if name == "auto" else f"asked for; {chip}")


def _choose_measured(name: str, machine: Machine) -> Precision:
    best = machine.best_fp32()
    fp32, bf16 = machine.matmul[best], machine.matmul["bf16"]
    mode: Float32Matmul = "medium" if best == "fp32_medium" else "highest"
    if name == "auto":
        wins = bf16.right(HALF_ERROR) and bf16.flops >= BF16_GAIN * fp32.flops
        return _precision("bf16" if wins else "fp32", mode, _compare(machine, best))
    if name == "fp16":
        return _precision(name, mode, "asked for; fp16 on a CPU is emulated and slow, bf16 or fp32 serves better")
    return _precision(name, mode, f"asked for; {_compare(machine, best)}")


def _compare(machine: Machine, best: Format) -> str:
    fp32, bf16 = machine.matmul[best], machine.matmul["bf16"]
    way = "through oneDNN" if best == "fp32_medium" else "plain"
    known = f"fp32 ({way}) measured {fp32.flops / 1e9:.0f} GFLOP/s at error {fp32.error:.0e}"
    if not bf16.right(HALF_ERROR):
        return f"{known}, bf16 does not run correctly here"
    times = bf16.flops / fp32.flops if fp32.flops else float("inf")
    figures = f"bf16 {bf16.flops / 1e9:.0f} GFLOP/s at error {bf16.error:.0e}"
    return f"{known}, {figures}: {times:.2f} times as fast (bf16 pays from {BF16_GAIN})"


def _precision(name: str, mode: Float32Matmul, reason: str) -> Precision:
    return Precision(name, DTYPES[name], mode, reason)  # pyright: ignore[reportArgumentType]


def peak_flops(precision: Precision, device: str | torch.device = "cpu") -> float:
    """Return the measured matmul speed, in FLOP/s, of the format that ``precision`` computes in."""
    if precision.name == "fp32" and precision.float32_matmul == "medium":
        return measure("fp32_medium", device).flops
    return measure(precision.name, device).flops
