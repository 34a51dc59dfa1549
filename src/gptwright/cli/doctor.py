"""`gptwright doctor`: what this machine can do, and which paths gptwright takes on it because of that."""

import json
import math
import os
import platform
import shutil
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel

from gptwright import __version__
from gptwright.config.cache import cache_folder
from gptwright.ops.native.build import library, why_not
from gptwright.ops.precision import choose, device_name, probe

EXTRAS = {
    "datasets": "data",
    "pyarrow": "data",
    "tensorboard": "track",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "peft": "finetune",
    "transformers": "hf",
    "huggingface-hub": "hf",
    "lm-eval": "eval",
    "scipy": "eval",
    "gguf": "gguf",
    "llguidance": "constrain",
}
"""Optional packages, and the extra that brings each."""

_COMPILERS = ("g++", "gcc", "clang++", "clang", "cl")
_GIB = 2**30


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Print what this machine can do and which paths were chosen (measures for about a second)."""
    facts = examine()
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    console = Console(markup=False)  # a path or a reason may hold brackets
    for title, rows in _tables(facts):
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for row in rows:
            table.add_row(*row)
        console.print(table)


def examine() -> dict[str, Any]:
    """Return everything the command prints, as plain data; bytes, FLOP/s and relative errors are numbers."""
    return {
        "gptwright": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": _cores(),
        "memory": {"total_bytes": _memory_bytes(), "available_bytes": _available_bytes()},
        "cpu_flags": list(probe("cpu").cpu_flags),
        "devices": [_device_facts(device) for device in _devices()],
        "decoding": {"native": library() is not None, "reason": why_not()},
        "compiler": next(filter(None, map(shutil.which, _compilers())), None),
        "disk": {"cache": _disk_facts(cache_folder()), "current": _disk_facts(Path.cwd())},
        "packages": {name: {"version": _version(name), "extra": extra} for name, extra in EXTRAS.items()},
    }


def _devices() -> list[str]:
    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _device_facts(device: str) -> dict[str, Any]:
    chosen = choose("auto", device)
    measured = probe(device).matmul
    return {
        "device": device,
        "name": device_name(device),
        "matmul": {
            name: {"flops": each.flops, "error": None if math.isnan(each.error) else each.error}
            for name, each in measured.items()
        },
        "precision": {"name": chosen.name, "float32_matmul": chosen.float32_matmul, "reason": chosen.reason},
        "sdpa": _sdpa_kernels(device, chosen.compute_dtype),
    }


def _sdpa_kernels(device: str, dtype: torch.dtype) -> list[str]:
    """Return the attention kernels of torch that run a causal forward pass here, by trying each."""
    q = torch.zeros(1, 2, 16, 64, device=device, dtype=dtype)
    found = []
    for backend in SDPBackend.__members__.values():
        try:
            with warnings.catch_warnings(), sdpa_kernel(backend):
                warnings.simplefilter("ignore")  # torch says at length why each kernel is not there
                F.scaled_dot_product_attention(q, q, q, is_causal=True)
        except RuntimeError:
            continue
        found.append(backend.name.lower().removesuffix("_attention"))
    return found


def _cores() -> int:
    """Return the cores this process may use, which a container or a batch system may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int | None:
    """Return the memory this process may use: the machine's, or its container's limit."""
    sizes = [int(limit) for limit in [_read("/sys/fs/cgroup/memory.max").strip()] if limit.isdigit()]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(sizes, default=None)


def _available_bytes() -> int | None:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return min(1024 * int(line.split()[1]), _memory_bytes() or sys.maxsize)
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _compilers() -> tuple[str, ...]:
    own = os.environ.get("CXX")  # torch.compile looks there first
    return (own, *_COMPILERS) if own else _COMPILERS


def _disk_facts(folder: Path) -> dict[str, Any]:
    """Return free bytes where ``folder`` is or would be made, and whether it can be written."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return {
        "path": str(folder),
        "free_bytes": shutil.disk_usage(there).free,
        "writable": os.access(there, os.W_OK),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _tables(facts: dict[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
    devices = [(f"Device {each['device']}", _device_rows(each)) for each in facts["devices"]]
    return [("Machine", _machine_rows(facts)), *devices, ("Optional packages", _package_rows(facts["packages"]))]


def _machine_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    memory, compiler = facts["memory"], facts["compiler"]
    return [
        ("gptwright", facts["gptwright"]),
        ("Python", f"{facts['python']} on {facts['platform']}"),
        ("torch", facts["torch"]),
        ("threads", f"{facts['threads']} of torch, on {facts['cores']} cores"),
        ("memory", f"{_size(memory['available_bytes'])} free of {_size(memory['total_bytes'])}"),
        ("CPU flags", ", ".join(facts["cpu_flags"]) or "none that matter here"),
        ("decoding", _decoding_words(facts["decoding"]["reason"])),
        ("torch.compile", compiler or "no C++ compiler found: leave train.compile off, or install g++"),
        *((f"disk ({name})", _disk_words(disk)) for name, disk in facts["disk"].items()),
    ]


def _decoding_words(reason: str | None) -> str:
    """Return what tokens are decoded with, and why not with the faster kernels."""
    return "native kernels" if reason is None else f"torch's kernels, which are slower: {reason}"


def _disk_words(disk: dict[str, Any]) -> str:
    return f"{_size(disk['free_bytes'])} free at {disk['path']}" + ("" if disk["writable"] else ", not writable")


def _device_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    names = {"fp32": "fp32 matmul", "fp32_medium": "fp32, medium", "bf16": "bf16 matmul"}
    speeds = [(names[name], _matmul_words(each)) for name, each in facts["matmul"].items()]
    return [
        ("name", facts["name"]),
        *speeds,
        ("precision", f"{facts['precision']['name']}: {facts['precision']['reason']}"),
        ("attention", ", ".join(facts["sdpa"]) or "no kernel of scaled_dot_product_attention runs"),
    ]


def _matmul_words(measured: dict[str, Any]) -> str:
    if not measured["flops"]:
        return "does not run here"
    error = "not a number" if measured["error"] is None else f"{measured['error']:.1e}"
    return f"{measured['flops'] / 1e9:,.0f} GFLOP/s, relative error {error}"


def _package_rows(packages: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, each["version"] or f"missing: pip install 'gptwright[{each['extra']}]'")
        for name, each in packages.items()
    ]


def _size(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / _GIB:.1f} GiB"
