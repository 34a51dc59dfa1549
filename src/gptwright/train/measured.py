"""The precision of new runs: measured once a machine, and kept in the cache.

Which of two ways is faster is a matter of timing. On a busy machine two runs with the same settings could come to
different choices, and to different roundings ever after; a run that was killed before it saved anything could even
differ from itself.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import torch

from gptwright.config.cache import cache_folder
from gptwright.data.place import write_file
from gptwright.ops.precision import DTYPES, Float32Matmul, Precision, choose, device_name

FILE = "precision.json"


def choose_once(name: str, device: torch.device) -> Precision:
    """Return what ``name`` (auto, fp32, bf16 or fp16) means on this device, as it was decided here before if it was.

    A decision belongs to the chip, the number of threads and the version of torch; delete ``precision.json`` in the
    cache folder to have the machine measured again.
    """
    key = f"{name} on {device_name(device)} with {torch.get_num_threads()} threads, torch {torch.__version__}"
    file = cache_folder() / FILE
    known = _as_precision(_read(file).get(key))
    if known is not None:
        return known
    found = choose(name, device)
    decided = {"name": found.name, "float32_matmul": found.float32_matmul, "reason": found.reason}
    with suppress(OSError):  # a cache that cannot be written only costs the next run its own measurement
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, (json.dumps({**_read(file), key: decided}, indent=1) + "\n").encode())
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _as_precision(decided: Any) -> Precision | None:
    """Return a decision that was read, or None where it is not one."""
    if not isinstance(decided, dict):
        return None
    name: Any = decided.get("name")
    mode: Any = decided.get("float32_matmul")
    if name not in DTYPES or mode not in get_args(Float32Matmul):
        return None
    return Precision(name, DTYPES[name], mode, str(decided.get("reason")))
